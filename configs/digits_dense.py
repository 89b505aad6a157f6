"""The dense control of `digits_sparse`: every pixel carries loss, all else is equal.

python -m maskdiff_jax.main --config=configs/digits_dense.py
"""

from configs import digits_sparse


def get_config():
    config = digits_sparse.get_config()
    config.supervision = {"name": "dense"}
    return config
