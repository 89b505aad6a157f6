"""mDT-v2-XL/2 in place of the DiT of `imagenet256_dit`: a second pass of every step sees 60 % of the tokens.

    python -m maskdiff_jax.main --mode=plan --config=configs/imagenet256_mdt.py [--devices=8 --memory=80]

Both passes weigh alike. Gao et al. 2023 (arXiv 2303.14389v2) draw the hidden share in [0.3, 0.5]; here it is 0.4, as
shapes are static. The variants of `imagenet256_dit` apply; nothing can train until there are latents.

Cost: 741,672,688 parameters, 1,312 GFLOPs of training an image; not run.
Expected result: unknown.
"""

from configs import imagenet256_dit


def get_config(variant: str = ""):
    config = imagenet256_dit.get_config(variant)
    config.model.name = "mdt"
    config.second_pass.weight = 1.0
    config.second_pass.visibility = {"name": "patch", "ratio": 0.4}
    return config
