"""Disentangled conditioning on scikit-learn's digits, which stand flipped, shrunk and faded somewhere on 16x16 pixels.

    python -m maskdiff_jax.main --config=configs/digits_controls.py
    python -m maskdiff_jax.main --config=configs/digits_controls.py:entangled

The class is a token, so that it acts through attention alone; how an image was made enters adaLN, what it looks like
(original size, contrast) only as the noise goes (Berrada Ifriqi et al. 2024, arXiv 2411.03177). ``entangled`` is the
paper's baseline: class and controls are summed into adaLN at every noise level; all else is equal.
"""

from maskdiff_jax.config import default_config


def get_config(arm: str = "disentangled"):
    config = default_config()
    config.steps = 1500
    config.batch = 128
    config.augment = {"name": "canvas"}
    config.model = {"name": "dit", "patch": 2, "width": 64, "depth": 4, "heads": 4}
    config.condition.controls_high = ("offset_top", "offset_left", "scale", "flip")
    config.condition.controls_low = ("original_height", "contrast")
    config.condition.drop_everything = 0.1
    how = {
        "disentangled": ({"label_token": {}, "controls": {}}, {"name": "cosine"}),
        "entangled": ({"label": {}, "controls": {}}, {"name": "none"}),
    }
    config.model.conditioning, config.condition.phase = how[arm]
    config.schedule.learning_rate = 2e-3
    config.ema = (0.999,)
    return config
