"""The stages of a run: one config each, built one after the other, with their places in the run's steps.

``config.stages`` holds what differs from the config itself; without any, the config is the only stage. The state's step
counts through all stages, so the position in a run, (stage, step in stage), is a function of it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment, abstract_batch, build
from maskdiff_jax.config import default_config
from maskdiff_jax.models.transfer import plan_transfer
from maskdiff_jax.parts import ConfigError, check_keys, complete
from maskdiff_jax.train.flops import training_flops
from maskdiff_jax.train.verify import require_same_run
from maskdiff_jax.train.workdir import FREE

# Keys that belong to the run as a whole.
OF_THE_RUN = ("seed", "encode", "parallel", "debug_nans", "profile", "stages", "init_from", "sample", "evaluate", "log")


class Stage(NamedTuple):
    """Steps ``start`` to ``stop`` of a run, its ``number`` from 0; ``images`` and ``flops`` are of those before it."""

    name: str
    number: int
    experiment: Experiment
    start: int
    stop: int
    flops_per_image: float
    images: int
    flops: float

    def images_at(self, step: int) -> int:
        """Images seen in the run's first ``step`` steps, of which the last is in this stage."""
        return self.images + (step - self.start) * self.experiment.config.batch

    def flops_at(self, step: int) -> float:
        """Analytic FLOPs of the run's first ``step`` steps."""
        return self.flops + (step - self.start) * self.experiment.config.batch * self.flops_per_image


def build_stages(config: ConfigDict) -> tuple[Stage, ...]:
    """Check the whole config and build every stage. Raises ConfigError, naming the stage where there are several."""
    stages: list[Stage] = []
    configs = stage_configs(config)
    for number, (name, own) in enumerate(configs):
        experiment = _named(number, name, lambda own=own: build(own)) if name else build(own)
        before = stages[-1] if stages else None
        start = before.stop if before else 0
        stages.append(
            Stage(
                name=name,
                number=number,
                experiment=experiment,
                start=start,
                stop=start + own.steps,
                flops_per_image=flops_per_image(experiment),
                images=before.images_at(start) if before else 0,
                flops=before.flops_at(start) if before else 0.0,
            )
        )
        if before:
            old, fresh = (jax.eval_shape(e.model.init, jax.random.key(0)) for e in (before.experiment, experiment))
            _named(number, name, lambda old=old, fresh=fresh, own=own: check_handover(old, fresh, own.handover))
    return tuple(stages)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage whose parameters a checkpoint of ``step`` holds: at an edge, the one that ends there."""
    return next((stage for stage in stages if step <= stage.stop), stages[-1])


def same_run(
    config: ConfigDict, folder: Path, stages: Sequence[Stage] | None = None
) -> Callable[[int, dict[str, Any]], None]:
    """``accept(step, meta)`` for `Checkpoints.restore`: refuses what a run of another config has left in ``folder``.

    With the run's ``stages``, also what a run on other data has: training goes on with the same data only, while a
    trained network may be used on others. It raises CheckpointError.
    """

    def accept(step: int, meta: dict[str, Any]) -> None:
        known = {"config": complete(ConfigDict(meta["config"]), default_config()).to_dict()} if "config" in meta else {}
        fingerprint = None if stages is None else stage_at(stages, step).experiment.dataset.fingerprint
        require_same_run(f"checkpoint {step} in {folder}", meta | known, config.to_dict(), fingerprint, FREE)

    return accept


def check_handover(old: Any, fresh: Any, settings: ConfigDict) -> None:
    """Raise ConfigError where parameters of the shapes ``old`` cannot become those of ``fresh``."""
    try:
        plan_transfer(old, fresh, renew=settings.renew, positions=settings.positions)
    except ValueError as error:
        raise ConfigError(f"config.handover: {error}") from error


def flops_per_image(experiment: Experiment) -> float:
    """Analytic FLOPs of training on one image, by a whole batch: that is traced already, by `build`."""
    b, params = experiment.config.batch, jax.eval_shape(experiment.model.init, jax.random.key(0))
    return training_flops(experiment.objective.loss, params, abstract_batch(experiment, b), jax.random.key(0)) / b


def stage_configs(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """(name, config) of every stage; the name is "" where there is one stage and it is the config itself.

    Raises ConfigError for a stage that is no dict of keys that a stage may have.
    """
    check_keys(config, default_config())
    stages = config.stages
    if not isinstance(stages, tuple | list):
        raise ConfigError(f"config.stages: a tuple of dicts, got {stages!r}")
    if not stages:
        return [("", config)]
    found = []
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping | ConfigDict):
            raise ConfigError(f"config.stages[{number}]: a dict of keys, got {stage!r}")
        own = dict(copy.deepcopy(dict(stage)))
        name = str(own.pop("name", number))
        for key in own:
            if key in OF_THE_RUN:
                raise ConfigError(f"config.stages[{number}].{key}: belongs to the whole run, set config.{key}")
            if key not in config:
                known = ", ".join(k for k in default_config() if k not in OF_THE_RUN)
                raise ConfigError(f"config.stages[{number}].{key}: no such key; there are {known}")
        merged = ConfigDict(config.copy_and_resolve_references())
        with merged.ignore_type():
            merged.stages = ()
            _overlay(merged, own)
        found.append((name, merged))
    if len({name for name, _ in found}) < len(found):
        raise ConfigError(f"config.stages: two stages are called alike: {', '.join(name for name, _ in found)}")
    return found


def _overlay(section: ConfigDict, own: Mapping[str, Any]) -> None:
    """Put the keys of ``own`` in place; a part of another name is replaced as a whole."""
    for key, value in own.items():
        old = section.get(key)
        if isinstance(value, Mapping | ConfigDict) and isinstance(old, ConfigDict):
            if "name" in value and value["name"] != old.get("name"):
                section[key] = ConfigDict(dict(value))
            else:
                _overlay(old, value)
        else:
            section[key] = value


def _named(number: int, name: str, attempt: Callable[[], Any]) -> Any:
    """The attempt, with the stage named in its ConfigError."""
    try:
        return attempt()
    except ConfigError as error:
        raise ConfigError(f"stage {number} ({name}): {error}") from error
