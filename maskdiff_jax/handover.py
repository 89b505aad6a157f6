"""Where a stage's parameters come from: fresh ones, the stage before, or trained ones (``config.init_from``)."""

from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment
from maskdiff_jax.diffusion.inputs import INPUTS
from maskdiff_jax.diffusion.prediction import PREDICTIONS
from maskdiff_jax.diffusion.process import PROCESSES
from maskdiff_jax.models import MODELS
from maskdiff_jax.models.transfer import Transfer, transfer
from maskdiff_jax.parts import ConfigError, whole
from maskdiff_jax.sources import Inherited, start
from maskdiff_jax.stages import Stage, check_handover
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.train.parallel import place_params, with_state_sharding
from maskdiff_jax.train.state import TrainState, state_from
from maskdiff_jax.train.workdir import differences
from maskdiff_jax.types import Key, Params

# Parts of a config that say what the numbers of a network mean, and what of them: of its model, how it takes the level.
MEANING = {
    "process": (PROCESSES, ""),
    "prediction": (PREDICTIONS, ""),
    "inputs": (INPUTS, ""),
    "model": (MODELS, "level_"),
}


def inherit(config: ConfigDict, first: Stage) -> Inherited | None:
    """The parameters that ``config.init_from`` names, checked against the first stage; None where it names none.

    Raises ConfigError where there are none or they do not fit, CheckpointError where no checkpoint of a run is sound.
    """
    if not config.init_from:
        return None
    path = Path(config.init_from)
    shapes = jax.eval_shape(first.experiment.model.init, jax.random.key(0))
    try:
        found = start(path, config.handover.weights)
    except ConfigError as error:
        raise ConfigError(f"config.init_from: {error}") from error
    try:
        check_handover(found.params, shapes, config.handover)
    except ConfigError as error:
        raise ConfigError(f"config.init_from={str(path)!r}: {error}") from error
    return found


def unlike(found: Inherited, config: ConfigDict) -> list[str]:
    """What the inherited parameters meant otherwise, although they fit: a line for each key of `MEANING`."""
    if found.config is None:
        return []
    theirs, ours = {"shift": found.config["shift"]}, {"shift": config["shift"]}
    for name, (table, of) in MEANING.items():
        sections = [found.config[name], config[name].to_dict()]
        if sections[0]["name"] == sections[1]["name"]:
            sections = [whole(name, table, section) for section in sections]
        theirs[name], ours[name] = ({k: v for k, v in section.items() if k.startswith(of)} for section in sections)
    return differences(theirs, ours, there="there")


def hand_over(params: Params, experiment: Experiment, step: int, key: Key, mesh: Mesh) -> tuple[TrainState, Transfer]:
    """The state in which a stage begins, from parameters that may be of another size: fresh optimiser and averages."""
    settings = experiment.config.handover
    shapes = with_state_sharding(mesh, jax.eval_shape(experiment.model.init, key))
    fresh = jax.jit(experiment.model.init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(key)
    params, report = transfer(place_params(mesh, params), fresh, renew=settings.renew, positions=settings.positions)
    return state_from(params, experiment.optimizer, step, mesh), report


def final_params(state: TrainState, config: ConfigDict, weights: str) -> Params:
    """What a stage gives to the next: its raw parameters, or (``weights`` 'ema') their first average."""
    if weights == "raw":
        return state.params
    average = get_ema(state.opt_state, config.ema[0])
    return jax.tree.map(lambda a, p: a.astype(p.dtype), average, state.params)
