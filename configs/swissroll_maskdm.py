"""MaskDM on a Swiss roll in the plane: a small DiT sees one of the two coordinates at a time, then both.

    python -m maskdiff_jax.main --config=configs/swissroll_maskdm.py

Each coordinate is a token. The first stage learns p(x) and p(y) alone, and its samples, drawn with both tokens visible,
are the primer (``samples/`` at the first stage's last step, beside the data); the second stage learns the roll. Lei et
al. 2023 (arXiv 2306.11363) argue on this example but give no numbers: all that stands below is ours. Switches:

    --config.stages="()" --config.steps=2400     from scratch, at the FLOPs of both stages together
    --config.stages[0].steps=300                 a shorter pre-training
    --config.handover.weights=ema                hand the average over instead
    --config.model.name=uvit --config.model.patch=1 --config.model.width=32 …   another network

Cost: about 2 CPU minutes, most of them for nine measurements of 10,000 samples (0.49 TFLOP of training).
Expected result: a sliced Wasserstein distance of 0.0107 ± 0.0013 over five seeds, all of which come within 0.0130, 1.5
times the distance of two fresh sets; from scratch, at equal FLOPs, 0.0139 ± 0.0039, and three of five do. The primer is
0.055 away. See `benchmarks.swissroll`.
"""

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.batch = 256
    config.data = {"name": "swissroll", "train": 20_000, "heldout": 10_000}
    config.model = {"name": "dit", "patch": 1, "width": 32, "depth": 4, "heads": 2}  # 2 tokens, 0.09 M parameters
    config.shift = 0.4  # a coordinate's standard deviation, where an image's is about 1
    config.schedule = {"name": "constant", "learning_rate": 4e-3, "warmup": 50}  # no curve depends on its end
    config.ema = (0.998,)
    config.stages = (
        {"name": "one coordinate", "steps": 900, "visibility": {"name": "patch", "ratio": 0.5}},
        {"name": "both", "steps": 1800},
    )
    config.sample.steps = 16
    config.sample.num = 10_000
    config.evaluate.num = 10_000
    config.evaluate.batch = 2_000
    config.evaluate.images = 2_000
    config.log.heldout_every = 300
    config.log.quality_every = 300
    config.log.sample_every = 2_700  # and at the end of each stage
    config.log.checkpoint_every = 300
    return config
