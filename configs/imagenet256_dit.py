"""DiT-XL/2 on ImageNet at 256 pixels, in latents of 32×32×4: one recipe for five backbones, of which this is the first.

    python -m maskdiff_jax.main --mode=plan --config=configs/imagenet256_dit.py [--devices=8 --memory=80]

Berrada Ifriqi et al. 2024 (arXiv 2411.03177) compare DiT, mDT-v2, PixArt-α, mmDiT and the U-Net of LDM like for like:
one latent space, one objective, one optimiser, of which we know Adam's betas (0.9, 0.95). The rest is that of DiT
(Peebles & Xie 2023): 1000 steps of linear betas, the noise and a learned variance predicted, a constant rate of 1e-4 at
batch 256, average 0.9999, 250 steps of sampling. Clipping the gradient is ours. Conditions:

    (none)          the label, as the backbone takes it in by default
    :controls       also the height and width of the original, at every noise level; with a DiT or mDT, whose label is a
                    vector by default, the paper's entangled baseline
    :disentangled   the label through attention alone, and the controls phased in by a cosine: the paper's proposal

The data are a description: this plans and builds, but cannot train until there are latents, which then replace
``config.data``. Latents are no pictures, so nothing is drawn or measured in pixels.

Cost: 674,834,720 parameters, 712 GFLOPs of training an image, 400,000 steps of 256 images; meant for a pod or
some nodes of GPUs, where we have not run it.
Expected result: not run. That of Peebles & Xie is FID 19.5 after 400,000 steps, without guidance.
"""

from maskdiff_jax.config import default_config

SIZES = ("original_height", "original_width")
VARIANTS = {
    "": {},
    "controls": {"condition": {"controls_low": SIZES, "drop_everything": 0.1}},
    "disentangled": {
        "condition": {"controls_low": SIZES, "drop_everything": 0.1, "phase": {"name": "cosine"}},
        "model": {"conditioning": {"label_token": {}, "controls": {}}},
    },
}


def get_config(variant: str = ""):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r}: choose from {', '.join(filter(None, VARIANTS))}, or none")
    config = default_config()
    config.steps = 400_000
    config.batch = 256
    config.data = {"name": "maskdiff_jax.plan:shape_only", "height": 32, "width": 32, "channels": 4, "classes": 1000}
    config.resident = False
    config.model = {"name": "dit", "preset": "XL", "patch": 2, "learned_variance": True, "level_scale": 1.0}
    config.model["dtype"] = "bfloat16"
    config.process = {"name": "ddpm_linear"}
    config.prediction = {"name": "eps"}
    config.inputs = {"name": "discrete"}
    config.times = {"name": "discrete_uniform", "steps": 1000}
    config.weighting = {"name": "constant", "space": "eps"}
    config.loss.vlb_weight = 0.001
    config.optimizer = {"name": "adam", "b1": 0.9, "b2": 0.95}
    config.schedule = {"name": "constant", "learning_rate": 1e-4}
    config.ema = (0.9999,)
    config.sample.sampler = {"name": "ancestral", "variance": "learned"}
    config.sample.spacing = {"name": "respaced"}
    config.sample.steps = 250
    config.sample.clip = False  # latents are not held in [-1, 1]
    config.evaluate.num = 0
    config.evaluate.space = "eps"
    config.log.heldout_every = 10_000
    config.log.sample_every = 0
    config.log.checkpoint_every = 10_000
    config.log.keep_every = 100_000
    config.update(VARIANTS[variant])
    return config
