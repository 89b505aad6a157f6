"""A run as training leaves it, but for the training: what exports and loads it need not wait for any."""

from pathlib import Path

import jax

from configs import digits_sparse
from maskdiff_jax.build import Experiment, build
from maskdiff_jax.evaluate.report import make_report, save_report
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.state import state_from
from maskdiff_jax.types import Params
from tests.evaluate.test_report import entries

STEP = 3


def small() -> Experiment:
    """A tiny DiT on digits that diffusers can hold."""
    config = digits_sparse.get_config()
    config.name, config.batch = "small", 8
    config.model = {"name": "dit", "patch": 4, "width": 16, "depth": 2, "heads": 2, "learned_variance": True}
    config.model.update({"level_scale": 1.0, "level_features": "diffusers"})
    config.process = {"name": "ddpm_linear", "steps": 100}
    config.prediction = {"name": "eps"}
    config.inputs = {"name": "discrete"}
    config.loss.vlb_weight = 0.001
    config.sample.sampler = {"name": "ddim"}
    config.sample.steps = 2
    config.evaluate.batch = 8
    return build(config)


def save_run(workdir: Path, experiment: Experiment, average: Params) -> Path:
    """A run of ``experiment`` with this average, which is not its raw parameters, after `STEP` steps."""
    raw = jax.tree.map(lambda leaf: leaf + 1, average)
    states = [state_from(params, experiment.optimizer, STEP, make_mesh()) for params in (raw, average)]
    meta = {"config": experiment.config.to_dict(), "fingerprint": experiment.dataset.fingerprint, "seconds": 0.0}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(STEP, states[1]._replace(params=states[0].params), {}, meta, wait=True)
    write_json(workdir / "config.json", experiment.config.to_dict())
    save_report(workdir / "report.json", make_report(**entries(steps=STEP)))
    return workdir
