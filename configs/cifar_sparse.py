"""Sparsely supervised flow matching on CIFAR-10: 90 % of the pixels' elements carry no loss, the input is whole.

    python -m maskdiff_jax.main --config=configs/cifar_sparse.py --config.data.data_dir=DIR

DIR holds the data set as TFDS prepares it in ArrayRecord form (default: TFDS's own folder, ~/tensorflow_datasets).
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 200_000
    config.batch = 256
    config.data = {"name": "tfds", "dataset": "cifar10", "data_dir": placeholder(str)}
    config.augment = {"name": "flip"}
    config.model = {"name": "dit", "preset": "S", "patch": 2, "dtype": "bfloat16"}
    config.supervision = {"name": "sparse", "ratio": 0.9}
    config.schedule = {"name": "constant", "learning_rate": 2e-4, "warmup": 1000}
    config.ema = (0.9999,)
    config.sample.num = 100
    config.sample.steps = 50
    config.log.sample_every = 10_000
    config.log.heldout_every = 2_000
    config.log.checkpoint_every = 5_000
    return config
