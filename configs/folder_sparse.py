"""Sparsely supervised flow matching on a folder of your own images: 90 % of the elements carry no loss.

    python -m maskdiff_jax.main --config=configs/folder_sparse.py --config.data.path=DIR

The class of an image is the sub-folder of DIR that it is in; without sub-folders the model is unconditional. Images of
any size and format become 64×64 squares; a tenth of them is held out. The network is a DiT-S/4 in bfloat16, trained on
200,000 batches of 256 images. That is a recipe, not a measured result: neither its time nor its sample quality has been
measured on any folder. Expect a table of the dense held-out loss and of measures of 1,000 samples, as for the digits;
the final report holds all images in memory, 48 KB each (--config.evaluate.num=0 leaves it out).
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 200_000
    config.batch = 256
    config.data = {"name": "folder", "path": placeholder(str), "size": 64}
    config.resident = False
    config.augment = {"name": "flip"}
    config.model = {"name": "dit", "preset": "S", "patch": 4, "dtype": "bfloat16"}
    config.supervision = {"name": "sparse", "ratio": 0.9}
    config.schedule = {"name": "constant", "learning_rate": 2e-4, "warmup": 1000}
    config.ema = (0.9999,)
    config.sample.num = 64
    config.sample.steps = 50
    config.log.sample_every = 10_000
    config.log.heldout_every = 2_000
    config.log.checkpoint_every = 5_000
    return config
