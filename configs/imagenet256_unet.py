"""The U-Net of LDM-4 in place of the DiT of `imagenet256_dit`, the label as the one token of its cross-attention.

    python -m maskdiff_jax.main --mode=plan --config=configs/imagenet256_unet.py [--devices=8 --memory=80]

It was published for latents of 64×64×3 (Rombach et al. 2022, arXiv 2112.10752). For a like-for-like comparison it gets
the 32×32×4 of the others, which its four levels halve to 4×4. The variants of `imagenet256_dit` apply; nothing can
train until there are latents.

Cost: 407,106,440 parameters, 141 GFLOPs of training an image; not run.
Expected result: unknown.
"""

from configs import imagenet256_dit


def get_config(variant: str = ""):
    config = imagenet256_dit.get_config(variant)
    del config.model.patch
    config.model.name, config.model.preset = "unet", "ldm"
    return config
