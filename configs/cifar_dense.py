"""The dense control of `cifar_sparse`: every pixel carries loss, all else is equal.

python -m maskdiff_jax.main --config=configs/cifar_dense.py --config.data.data_dir=DIR
"""

from configs import cifar_sparse


def get_config():
    config = cifar_sparse.get_config()
    config.supervision = {"name": "dense"}
    return config
