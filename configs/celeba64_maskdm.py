"""MaskDM on CelebA at 64 pixels: a U-ViT over 256 tokens, half of them hidden in pre-training, unconditional.

    python -m maskdiff_jax.main --config=configs/celeba64_maskdm.py --config.data.path=FOLDER

FOLDER holds the aligned images; the central square is cut out and resized. The recipe of Lei et al. 2023 (arXiv
2306.11363), Table 1 and code: linear betas, batch 128, 2e-4 without clipping or warm-up in fine-tuning; the mask of the
first stage is one of those that they compare. The switches of `cifar_maskdm` apply.

Cost: 44.3 M parameters; meant for a few GPUs, where we have not run it.
Expected result: not measured by us.
"""

from ml_collections.config_dict import placeholder

from configs.cifar_maskdm import recipe
from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.data = {"name": "folder", "path": placeholder(str), "size": 64}
    config.resident = False
    config.augment = {"name": "flip"}
    config.condition.label = False
    config.model = {"name": "uvit", "preset": "small", "patch": 4, "level_scale": 1.0, "dtype": "bfloat16"}
    config.batch = 128
    config.stages = (
        {"name": "masked", "steps": 200_000, "visibility": {"name": "block", "ratio": 0.5, "block": 2}},
        {"name": "full", "steps": 200_000, "clip": None},
    )
    return recipe(config)
