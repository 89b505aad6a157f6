"""PixArt-α-XL/2 in place of the DiT of `imagenet256_dit`, the label as the one token of its cross-attention.

    python -m maskdiff_jax.main --mode=plan --config=configs/imagenet256_pixart.py [--devices=8 --memory=80]

The variants of `imagenet256_dit` apply; nothing can train until there are latents.

Cost: 605,961,248 parameters, 825 GFLOPs of training an image; not run.
Expected result: unknown.
"""

from configs import imagenet256_dit


def get_config(variant: str = ""):
    config = imagenet256_dit.get_config(variant)
    config.model.name = "pixart"
    return config
