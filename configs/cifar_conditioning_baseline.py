"""Entangled conditioning on CIFAR-10: class, crop and flip are summed into adaLN, at every noise level alike.

    python -m maskdiff_jax.main --config=configs/cifar_conditioning_baseline.py --config.data.data_dir=DIR

DIR as in `cifar_sparse`. The baseline of Berrada Ifriqi et al. 2024 (arXiv 2411.03177), who did not train on CIFAR-10.
Windows of 24 to 32 pixels a side, half of them mirrored, are enlarged to 32: where a window is and whether it is
mirrored are high-level controls; of how many pixels it was made, which blurs it, is the low-level one.

Cost: that of `cifar_dense`. Meant for a GPU; never run.
Expected result: unknown; the pair with `cifar_conditioning_disentangled` is there to compare dense held-out losses, and
samples of which only a control is changed: ``--mode=sample --controls=flip=1,crop_height=24``.
"""

from configs import cifar_dense


def get_config():
    config = cifar_dense.get_config()
    config.augment = {"name": "local_crop", "size": 32, "low": 0.75, "rate": 0.5}
    config.condition.controls_high = ("crop_top", "crop_left", "flip")
    config.condition.controls_low = ("crop_height",)
    config.condition.drop_everything = 0.1  # beside 0.1 for the label alone: `two_scale` guidance needs both
    config.model.conditioning = {"label": {}, "controls": {}}
    return config
