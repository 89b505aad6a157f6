"""Runs of this trainer, by their workdirs."""

from pathlib import Path

from ml_collections import ConfigDict

from maskdiff_jax.config import default_config
from maskdiff_jax.inference import load, read_config
from maskdiff_jax.parts import ConfigError, complete
from maskdiff_jax.sources.base import COSTS, Built, Inherited
from maskdiff_jax.stages import build_stages
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.progress import say


def holds(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "checkpoints").is_dir()


def use(path: Path, checkpoint: str, vae: str) -> Built:
    """A checkpoint: see `inference.load`."""
    config = read_config(path)
    if vae:
        config.data.vae = vae
    stage, trained = load(build_stages(config), path, checkpoint)
    return Built(stage.experiment, trained.params, trained.step)


def start(path: Path, weights: str) -> Inherited:
    """The newest sound checkpoint. Raises ConfigError where there is none at all, CheckpointError where none is sound.

    Its config is known where the run has no stages.
    """
    if not (path / "checkpoints").is_dir():
        raise ConfigError(f"{path} holds no run: there is no {path / 'checkpoints'}")
    with Checkpoints(path / "checkpoints", read_only=True, warn=say) as checkpoints:
        found = checkpoints.read_params("first" if weights == "ema" else None)
    cost = {name: found.meta.get(name) for name in COSTS} | {"steps": found.step}
    if (path / "transfer.json").is_file():  # which had inherited, too
        before = read_json(path / "transfer.json")
        cost = {name: None if None in (cost[name], before[name]) else cost[name] + before[name] for name in COSTS}
    config = found.meta.get("config")
    known = config is not None and not config.get("stages")
    whole = complete(ConfigDict(config), default_config()).to_dict() if known else None
    return Inherited(path, found.step, found.params, cost, whole)
