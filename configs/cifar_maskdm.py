"""MaskDM on CIFAR-10: a U-ViT sees a quarter of its 256 tokens while it is pre-trained, then all of them.

    python -m maskdiff_jax.main --config=configs/cifar_maskdm.py --config.data.data_dir=DIR

DIR as in `cifar_sparse`. The recipe of Lei et al. 2023 (arXiv 2306.11363), who did not train on CIFAR-10: the kind and
ratio of the mask, the batch of the first stage and the numbers of steps are ours. Fine-tuning starts from the raw
weights with a fresh optimiser and fresh averages. Switches:

    --config.stages[0].visibility.ratio=0.9      another ratio; .name=patch or crop (with .side=8), .block=2 …
    --config.stages[1].steps=50000               the length of fine-tuning
    --config.stages="()" --config.steps=200000   one stage, all tokens: the baseline
    --config.model.positions=False               no position input
    --config.loss.weight_by_inclusion=True       every token counts alike under crop masks
    --config.handover.weights=ema                hand the average over instead

Cost: 44.3 M parameters, a step of the first stage a quarter of one of the second; meant for one GPU, where we have not
run it to its end.
Expected result: at equal FLOPs or seconds, a lower dense held-out loss than the baseline; `maskdiff_jax.compare` says
whether it is so.
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.data = {"name": "tfds", "dataset": "cifar10", "data_dir": placeholder(str)}
    config.augment = {"name": "flip"}
    config.model = {"name": "uvit", "preset": "small", "patch": 2, "level_scale": 1.0, "dtype": "bfloat16"}
    config.stages = (
        {"name": "masked", "steps": 200_000, "batch": 512, "visibility": {"name": "block", "ratio": 0.75, "block": 2}},
        {"name": "full", "steps": 100_000, "batch": 128, "schedule": {"warmup": 5000}},
    )
    return recipe(config)


def recipe(config):
    """What the paper's runs share: 1,000 steps of a table, eps, unweighted; AdamW, EMA, DDIM with noise."""
    config.process = {"name": "ddpm_linear"}
    config.prediction = {"name": "eps"}
    config.inputs = {"name": "discrete"}
    config.times = {"name": "discrete_uniform", "steps": 1000}
    config.weighting = {"name": "constant", "space": "eps"}
    config.optimizer = {"name": "adamw", "b1": 0.99, "b2": 0.99, "weight_decay": 0.03}
    config.schedule = {"name": "constant", "learning_rate": 2e-4, "warmup": 0}
    config.ema = (0.999,)
    config.sample.sampler = {"name": "ddim", "eta": 1.0}
    config.sample.spacing = {"name": "respaced"}
    config.sample.steps = 250
    config.evaluate.space = "eps"
    config.log.sample_every = 10_000
    config.log.heldout_every = 5_000
    config.log.checkpoint_every = 5_000
    return config
