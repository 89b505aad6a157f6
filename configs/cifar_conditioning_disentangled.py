"""Disentangled conditioning on CIFAR-10: the class is a token, and the window's size is let in as the noise goes.

    python -m maskdiff_jax.main --config=configs/cifar_conditioning_disentangled.py --config.data.data_dir=DIR

After Berrada Ifriqi et al. 2024 (arXiv 2411.03177), with the betas of their Adam; data, network and schedule are those
of the baseline. With separate guidance for class and controls:

    python -m maskdiff_jax.main --mode=sample --workdir=runs/cifar_conditioning_disentangled \\
        --config.sample.guidance.name=two_scale --config.sample.guidance.semantic=2 --config.sample.guidance.control=1.5

Cost: that of the baseline and one token more. Meant for a GPU; never run.
Expected result: as in `cifar_conditioning_baseline`, unknown.
"""

from configs import cifar_conditioning_baseline


def get_config():
    config = cifar_conditioning_baseline.get_config()
    config.model.conditioning = {"label_token": {}, "controls": {}}
    config.condition.phase = {"name": "cosine"}
    config.optimizer.b1, config.optimizer.b2 = 0.9, 0.95
    return config
