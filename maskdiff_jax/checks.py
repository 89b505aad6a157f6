"""What a config must hold beyond what its parts check by themselves. Every error is a ConfigError of one line."""

import math

from ml_collections import ConfigDict

from maskdiff_jax.config import default_config
from maskdiff_jax.data import Augment, Dataset, control_names
from maskdiff_jax.evaluate.better import BETTER, IMAGE_METRICS
from maskdiff_jax.evaluate.metrics import METRICS, Options
from maskdiff_jax.parts import ConfigError, checked, closest, flatten
from maskdiff_jax.train.loop import profiled_steps
from maskdiff_jax.train.parallel import ENGINES
from maskdiff_jax.train.writers import BOARDS

# What checkpoints can be ranked by, and how often it is measured.
RANKING = {"heldout": "heldout_every", "heldout_ema": "heldout_every", "quality": "quality_every"}
OPTIONAL = ("clip",)  # what may be None, though it is not so by default
HANDOVERS = {"handover.weights": ("raw", "ema"), "handover.positions": ("interpolate", "extrapolate")}


def check_given(config: ConfigDict) -> None:
    """Raise ConfigError for a None where a value is needed. The options of a part are left to its factory."""
    flat, defaults = flatten(config), flatten(default_config())
    for path, default in defaults.items():
        section = path.rpartition(".")[0]
        of_a_part = bool(section) and f"{section}.name" in defaults
        if flat.get(path, default) is None and default is not None and path not in OPTIONAL and not of_a_part:
            raise ConfigError(f"config.{path}: cannot be None; the default is {default!r}")


def check_values(config: ConfigDict) -> None:
    """Raise ConfigError for a number that no part checks."""
    check_given(config)
    least = {
        1: (
            "steps",
            "guard.max_bad_steps",
            "batch",
            "accumulate",
            "steps_per_call",
            "sample.num",
            "evaluate.batch",
            "evaluate.levels",
            "evaluate.diagnose.num",
            "evaluate.diagnose.context",
            "log.every",
        ),
        0: (
            "seed",
            "parallel.fsdp",
            "log.sample_every",
            "log.heldout_every",
            "log.quality_every",
            "log.checkpoint_every",
            "log.keep_best",
            "evaluate.num",
            "evaluate.bits_per_dim.images",
        ),
    }
    flat = flatten(config)
    for low, paths in least.items():
        for path in paths:
            if not isinstance(flat[path], int) or flat[path] < low:
                raise ConfigError(f"config.{path}: a whole number of at least {low}, got {flat[path]!r}")
    weight = config.second_pass.weight
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"config.second_pass.weight: finite and at least 0, got {weight}")
    for path, choices in HANDOVERS.items():
        if flat[path] not in choices:
            raise ConfigError(f"config.{path}: unknown {flat[path]!r}; choose from {', '.join(choices)}")
    if not config.ema:
        raise ConfigError("config.ema: name at least one decay; the first one is sampled and evaluated")
    if config.evaluate.images < config.evaluate.levels:
        raise ConfigError(
            f"config.evaluate.images: at least evaluate.levels={config.evaluate.levels}, got {config.evaluate.images}"
        )
    if config.parallel.engine not in ENGINES:
        raise ConfigError(
            f"config.parallel.engine: unknown {config.parallel.engine!r}; choose from {', '.join(ENGINES)}"
        )
    every = {key: value for key, value in config.log.items() if key.endswith("every") and key != "keep_every" and value}
    often = min(every, key=lambda key: every[key])
    if config.steps_per_call > every[often]:
        raise ConfigError(f"config.steps_per_call: at most log.{often}={every[often]}, got {config.steps_per_call}")
    check_best(config)
    if config.log.board not in BOARDS:
        raise ConfigError(f"config.log.board: unknown {config.log.board!r}; choose from {', '.join(BOARDS)}")
    checked("log.board", BOARDS[config.log.board])
    if config.profile:
        checked("profile", profiled_steps, config.profile)
    scale = config.evaluate.judge_guidance
    if not (math.isfinite(scale) and scale >= 0):
        raise ConfigError(f"config.evaluate.judge_guidance: finite and at least 0, got {scale}")


def check_best(config: ConfigDict) -> None:
    """Raise ConfigError where checkpoints are to be ranked by what is not measured when they are written."""
    log = config.log
    if not log.keep_best:
        return
    kind, _, name = str(log.best_metric).partition("/")
    if kind not in RANKING:
        choices = ", ".join(f"{kind}/…" for kind in RANKING)
        raise ConfigError(
            f"config.log.best_metric: {log.best_metric!r} is not measured regularly; choose from {choices}"
        )
    losses = ["loss", *(f"level_{i:02d}" for i in range(config.evaluate.levels))]
    measured = [*IMAGE_METRICS, *config.evaluate.metrics] if kind == "quality" else losses
    choices = [name for name in measured if kind != "quality" or BETTER.get(name)]
    if name not in choices:
        raise ConfigError(
            f"config.log.best_metric: {kind!r} has no {name!r} to rank by{closest(name, choices)}; "
            f"choose from {', '.join(choices)}"
        )
    every = RANKING[kind]
    if not log[every] or not log.checkpoint_every or log.checkpoint_every % log[every]:
        raise ConfigError(
            f"config.log.keep_best: log.{every}={log[every]} must divide log.checkpoint_every={log.checkpoint_every}, "
            f"as every checkpoint needs {log.best_metric}"
        )


def best_sign(metric: str) -> int:
    """1 where less of a logged metric is better, -1 where more is."""
    kind, _, name = metric.partition("/")
    return -1 if kind == "quality" and BETTER.get(name) == "higher" else 1


def check_metrics(config: ConfigDict, dataset: Dataset) -> None:
    """Raise ConfigError where ``evaluate.metrics`` cannot be measured of this data set, or of so few samples."""
    settings = config.evaluate
    if not isinstance(settings.metrics, tuple | list):
        raise ConfigError(f"config.evaluate.metrics: a tuple of names, got {settings.metrics!r}")
    for name in settings.metrics:
        if name not in METRICS:
            choices = f"choose from {', '.join(METRICS)}"
            raise ConfigError(f"config.evaluate.metrics: unknown {name!r}{closest(name, METRICS)}; {choices}")
    if settings.metrics and dataset.dtype == "float32":
        raise ConfigError(f"config.evaluate.metrics: {dataset.name} are no pictures, of which features are made")
    if "class_accuracy" in settings.metrics and not (config.condition.label and dataset.classes):
        raise ConfigError("config.evaluate.metrics: class_accuracy is of a model with class labels")
    for name in settings.metrics:
        if 0 < settings.num < (least := METRICS[name].least(Options())):
            raise ConfigError(f"config.evaluate.num: {name} needs at least {least} samples, got {settings.num}")


def check_controls(condition: ConfigDict, augment: Augment) -> None:
    """Raise ConfigError for a control that the data do not record."""
    known = control_names(augment)
    for key in ("controls_high", "controls_low"):
        if not isinstance(condition[key], tuple | list):
            raise ConfigError(f"config.condition.{key}: a tuple of names, got {condition[key]!r}")
        for name in condition[key]:
            if name not in known:
                raise ConfigError(
                    f"config.condition.{key}: the data record no {name!r}{closest(name, known)}; "
                    f"choose from {', '.join(known)}, or from those of another config.augment"
                )
