"""The dense control of `consistency_sparse`: every element carries loss, all else is equal.

    python -m maskdiff_jax.main --config=configs/consistency_dense.py

Cost: that of `consistency_sparse`. Expected result: not run.
"""

from configs import consistency_sparse


def get_config():
    config = consistency_sparse.get_config()
    config.supervision = {"name": "dense"}
    return config
