"""From 4 to 8 pixels on scikit-learn's digits: a DiT is pre-trained on reduced images, then goes on with the real ones.

    python -m maskdiff_jax.main --config=configs/digits_resolution.py
    python -m maskdiff_jax.main --config=configs/digits_resolution.py:scratch --workdir=runs/scratch

After the strategies of Berrada Ifriqi et al. 2024 (arXiv 2411.03177) for a larger resolution. Variants:

    :scratch        8 px alone, from fresh parameters: the baseline
    :no_shift       both stages on one noise schedule. Otherwise that of 8 px is shifted by s'/s = 2 against that of
                    4 px: means of 2×2 pixels halve the noise, so a network then meets the same noise at the same t
    :extrapolate    positions count on beyond the four rows and columns of patches that were trained. Otherwise they are
                    read inside of these
    :low            4 px alone, for several runs to start from: with --config.stages="()" --config.init_from=DIR another
                    variant is its stage of 8 px alone

8 px has the schedule of the other digits configs in all variants, and 4 px is shifted by 1/2: so every variant trains
8 px on the same loss and is measured and sampled alike. Patches have 1 px, the tokens go from 4×4 to 8×8. The learning
rate is constant, so that what a longer run is at step n, a run of n steps is in the end. Sizes and numbers of steps are
ours.

Cost: 600 steps at 4 px (0.6 TFLOP) and 300 at 8 px (1.3 TFLOP); two minutes on one CPU core.
Expected result: pixel Frechet distance 1.4 and held-out loss 0.43 (from scratch 2.9 and 0.50), over three seeds; what
300 steps from scratch reach takes 0.39 and 0.32 of these steps, without interpolation 0.57 and 0.51, and the shift
makes no difference. `benchmarks.resolution` measures it; benchmarks/RESULTS.md.
"""

from configs import digits_dense

LOW = {"steps": 600, "augment": {"name": "low_resolution", "size": 4}, "shift": 0.5, "model": {"trained_grid": None}}
STAGE = {"name": "4px", **LOW}
INTERPOLATE = {"trained_grid": (4, 4)}  # the tokens of 4 px

VARIANTS = {
    "": {"stages": (STAGE, {"name": "8px"}), "model": INTERPOLATE},
    "no_shift": {"stages": (STAGE | {"shift": 1.0}, {"name": "8px"}), "model": INTERPOLATE},
    "extrapolate": {"stages": (STAGE, {"name": "8px"})},
    "scratch": {},
    "low": LOW,
}


def get_config(variant: str = ""):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose from {', '.join(filter(None, VARIANTS))}, or none")
    config = digits_dense.get_config()
    config.name = f"digits_resolution_{variant}".rstrip("_")
    config.steps = 300  # at 8 px
    config.batch = 64
    config.model = {"name": "dit", "patch": 1, "width": 64, "depth": 3, "heads": 4}
    config.schedule = {"name": "constant", "learning_rate": 2e-3, "warmup": 50}
    config.sample.steps = 15
    config.evaluate.num = 500
    config.evaluate.judge = {"name": "none"}
    config.log.quality_every = 50
    config.log.heldout_every = 25
    config.log.sample_every = 0
    config.update(VARIANTS[variant])
    return config
