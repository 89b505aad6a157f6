"""Sparsely supervised diffusion on images of two far-apart shapes of one colour: 90 % of the elements carry no loss.

    python -m maskdiff_jax.main --config=configs/consistency_sparse.py

Whether samples obey the rule says if a network that is asked about few elements at a time still learns what joins the
two ends of an image. Control: `consistency_dense`. Switches:

    --config.data.rule=mirror             halves that are mirror images of each other
    --config.data.size=32                 larger images; four times the tokens
    --config.supervision.unit=pixel       all channels of a pixel together

Cost: 18 TFLOP of training and 1.6 TFLOP of sampling, by ``--mode=plan``; on 2 CPU cores about 5 minutes,
estimated from the rate of `digits_sparse`.
Expected result: not run.
"""

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 1500
    config.batch = 64
    config.data = {"name": "consistency", "rule": "colours", "size": 16, "images": 20_000, "heldout": 2_000}
    config.model = {"name": "dit", "patch": 2, "width": 96, "depth": 4, "heads": 4}  # 64 tokens, 0.7 M parameters
    config.supervision = {"name": "sparse", "ratio": 0.9}  # each element carries loss with probability 1/10
    config.schedule.learning_rate = 2e-3
    config.ema = (0.999,)
    return config
