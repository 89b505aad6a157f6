"""MaskDM on CelebA-HQ at 256 pixels in three stages: 90 % of the 4,096 tokens hidden, then 50 %, then none.

    python -m maskdiff_jax.main --config=configs/celebahq256_maskdm.py --config.data.path=FOLDER

The stages of Lei et al. 2023 (arXiv 2306.11363), whose code has one config each; that they were chained is our reading.
The wavelet variant (233 M parameters, two token segments with masks of their own) is
``--config.codec.name=haar --config.model.preset=large --config.model.segments="(3, 9)"``.
The switches of `cifar_maskdm` apply.

Cost: 46.3 M parameters, 200,000 steps a stage; meant for a node of GPUs, where we have not run it.
Expected result: the paper's is FID 6.27; not measured by us.
"""

from ml_collections.config_dict import placeholder

from configs.cifar_maskdm import recipe
from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.data = {"name": "folder", "path": placeholder(str), "size": 256}
    config.resident = False
    config.augment = {"name": "flip"}
    config.condition.label = False
    config.model = {"name": "uvit", "preset": "small", "patch": 4, "level_scale": 1.0, "dtype": "bfloat16"}
    config.stages = (
        {"name": "90%", "steps": 200_000, "batch": 256, "visibility": {"name": "block", "ratio": 0.9, "block": 4}},
        {
            "name": "50%",
            "steps": 200_000,
            "batch": 64,
            "visibility": {"name": "block", "ratio": 0.5, "block": 4},
            "schedule": {"warmup": 5000},
        },
        {"name": "full", "steps": 200_000, "batch": 32, "schedule": {"learning_rate": 1e-5, "warmup": 5000}},
    )
    recipe(config)
    config.process = {"name": "ddpm_cosine"}
    return config
