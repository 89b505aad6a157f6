"""mmDiT-XL/2 in place of the DiT of `imagenet256_dit`, the label as the one token of its second stream.

    python -m maskdiff_jax.main --mode=plan --config=configs/imagenet256_mmdit.py [--devices=8 --memory=80]

Depth, width and heads are DiT-XL's: what the paper's are is not specified there as far as we know it. The variants of
`imagenet256_dit` apply; nothing can train until there are latents.

Cost: 1,325,594,840 parameters, 716 GFLOPs of training an image; not run.
Expected result: unknown.
"""

from configs import imagenet256_dit


def get_config(variant: str = ""):
    config = imagenet256_dit.get_config(variant)
    config.model.name = "mmdit"
    return config
