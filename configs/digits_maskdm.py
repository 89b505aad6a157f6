"""MaskDM on scikit-learn's digits: a DiT sees a quarter of its tokens while it is pre-trained, then all of them.

    python -m maskdiff_jax.main --config=configs/digits_maskdm.py

Model, data and objective are those of `digits_dense`, and both stages together cost as many FLOPs as it does. The
switches of `cifar_maskdm` apply.

Cost: under two and a half minutes on 2 CPU cores, evaluation included (7 TFLOP of training).
Expected result: class accuracy 1.000 at guidance 2, pixel Frechet 0.32 at guidance 1, dense held-out loss 0.362.
"""

from configs import digits_dense


def get_config():
    config = digits_dense.get_config()
    config.stages = (
        {
            "name": "masked",
            "steps": 1470,  # as dear as 400 steps of the whole
            "visibility": {"name": "patch", "ratio": 0.75},
            "schedule": {"final": 1.0},  # constant: there is no end to anneal to
        },
        {"name": "full", "steps": 800},  # and 1,200 in all, as in `digits_dense`
    )
    return config
