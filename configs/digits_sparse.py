"""Sparsely supervised diffusion on scikit-learn's real 8x8 digits: half of the pixels carry loss, the input is whole.

python -m maskdiff_jax.main --config=configs/digits_sparse.py
"""

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 1200
    config.batch = 128
    config.model = {"name": "dit", "patch": 2, "width": 96, "depth": 4, "heads": 4}
    config.supervision = {"name": "sparse", "ratio": 0.5}
    config.schedule.learning_rate = 2e-3
    config.ema = (0.999,)
    config.sample.num = 100
    config.evaluate.judge = {"name": "svm"}
    return config
