"""Sparsely supervised flow matching on CIFAR-10: 90 % of the image's elements carry no loss, the input is whole.

    python -m maskdiff_jax.main --config=configs/cifar_sparse.py --config.data.data_dir=DIR

DIR holds the data set in TFDS's form; without it the set is downloaded and prepared on first use in TFDS's own folder,
~/tensorflow_datasets.

Cost: DiT-S/2, 36.3 GFLOP an image, 1.9e18 FLOP in all; meant for one GPU or a TPU host, where we have not run it to its
end. A CPU is for trying: with ``--config.model.patch=4 --config.model.width=64 --config.model.depth=2
--config.model.heads=4 --config.steps=200 --config.batch=32`` the test suite sees the dense held-out loss fall below two
fifths of its start.
Expected result: class-conditional samples in ``samples/``; in ``metrics.jsonl`` the dense loss, to hold beside the one
of `cifar_dense`.
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
    config.supervision = {"name": "sparse", "ratio": 0.9}  # Zhao et al. 2026 go up to 0.98
    config.schedule = {"name": "constant", "learning_rate": 2e-4, "warmup": 1000}
    config.ema = (0.9999,)
    config.sample.num = 100
    config.sample.steps = 50
    config.log.sample_every = 10_000
    config.log.heldout_every = 2_000
    config.log.checkpoint_every = 5_000
    return config
