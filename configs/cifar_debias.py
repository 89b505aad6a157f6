"""Debiased training of an ADM-light U-Net on CIFAR-10: 1/sqrt(SNR) on the noise's error, the authors' recipe.

    python -m maskdiff_jax.main --config=configs/cifar_debias.py --config.data.data_dir=DIR

Yu et al. 2024 (arXiv 2310.08442) with their released settings: eps, linear betas, t uniform over 1,000 steps, weight
sigma/alpha without clipping or normalisation, AdamW at a constant 2e-5 without decay, batch 32, EMA 0.9999, flips,
500,000 steps; the learned variance is trained by the unweighted variational bound with the mean detached.

Cost: 30.5 M parameters; meant for one GPU, where we have not run it to its end.
Expected result (the authors', on faces at 256 px): better than `constant` on eps most of all at few sampling steps.
``--config.weighting.name=constant --config.weighting.space=eps`` is the control.
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 500_000
    config.batch = 32
    config.data = {"name": "tfds", "dataset": "cifar10", "data_dir": placeholder(str)}
    config.augment = {"name": "flip"}
    config.process = {"name": "ddpm_linear"}
    config.prediction = {"name": "eps"}
    config.inputs = {"name": "discrete"}
    config.times = {"name": "discrete_uniform", "steps": 1000}
    config.weighting = {"name": "debias"}
    config.loss.vlb_weight = 0.001  # Nichol & Dhariwal 2021
    config.model = {"name": "unet", "learned_variance": True, "level_scale": 1.0}
    config.optimizer = {"name": "adamw", "weight_decay": 0.0}
    config.schedule = {"name": "constant", "learning_rate": 2e-5, "warmup": 0}
    config.clip = None
    config.ema = (0.9999,)
    config.sample.sampler = {"name": "ancestral", "variance": "learned"}
    config.sample.spacing = {"name": "respaced"}
    config.sample.steps = 100
    config.sample.num = 100
    config.evaluate.space = "eps"
    config.log.sample_every = 10_000
    config.log.heldout_every = 5_000
    config.log.checkpoint_every = 5_000
    return config
