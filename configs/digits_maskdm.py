"""MaskDM on scikit-learn's digits: a DiT sees a quarter of its tokens while it is pre-trained, then all of them.

    python -m maskdiff_jax.main --config=configs/digits_maskdm.py

Model, data and objective are those of `digits_dense`. The switches of `cifar_maskdm` apply.
"""

from configs import digits_dense


def get_config():
    config = digits_dense.get_config()
    config.stages = (
        {
            "name": "masked",
            "steps": 1200,
            "visibility": {"name": "patch", "ratio": 0.75},
            "schedule": {"final": 1.0},  # constant: there is no end to anneal to
        },
        {"name": "full", "steps": 900},
    )
    return config
