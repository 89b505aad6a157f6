"""Tables of noise as diffusers' schedulers write them down, in and out: a process, a prediction and how to sample."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PREDICTIONS = {"x": "sample", "eps": "epsilon", "v": "v_prediction"}  # ours -> the scheduler's
DEFAULTS = {  # of diffusers' schedulers, where an entry is absent
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}


class Schedule(NamedTuple):
    """Sections of a config: ``process``, ``prediction`` and ``sampler``; ``clip``: denoised images lie in [-1, 1]."""

    process: dict[str, Any]
    prediction: dict[str, Any]
    sampler: dict[str, Any]
    clip: bool


class Table(NamedTuple):
    """A process that schedulers have: the entries of its options, and the options of those entries."""

    to: Callable[..., dict[str, Any]]
    back: Callable[[Mapping[str, Any]], dict[str, Any]]


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> dict[str, Any]:
    """The scheduler's table of the process 'ddpm_linear'."""
    return {"num_train_timesteps": steps, "beta_schedule": "linear", "beta_start": beta_min, "beta_end": beta_max}


def cosine(steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> dict[str, Any]:
    """The scheduler's table of the process 'ddpm_cosine'. Raises ValueError for other constants than its defaults."""
    if (s, beta_max) != (0.008, 0.999):
        raise ValueError(f"ddpm_cosine: diffusers' schedulers have s=0.008 and beta_max=0.999, not {s} and {beta_max}")
    return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}


def linear_options(has: Mapping[str, Any]) -> dict[str, Any]:
    """The options of 'ddpm_linear' from the entries of a scheduler."""
    return {"steps": has["num_train_timesteps"], "beta_min": has["beta_start"], "beta_max": has["beta_end"]}


def cosine_options(has: Mapping[str, Any]) -> dict[str, Any]:
    """The options of 'ddpm_cosine' from the entries of a scheduler."""
    return {"steps": has["num_train_timesteps"]}


TABLES = {"ddpm_linear": Table(linear, linear_options), "ddpm_cosine": Table(cosine, cosine_options)}
SCHEDULES = {"linear": "ddpm_linear", "squaredcos_cap_v2": "ddpm_cosine"}  # the scheduler's -> ours
SAMPLERS = {  # the scheduler's class -> ours, and whether it clips where it does not say so
    "DDIMScheduler": ("ddim", True),
    "DDPMScheduler": ("ancestral", True),
    "DPMSolverMultistepScheduler": ("dpm_solver", False),
}


def to_scheduler(
    process: str, options: Mapping[str, Any], prediction: str = "eps", clip: bool = False
) -> dict[str, Any]:
    """The configuration of diffusers' DDIM sampler on our table of steps.

    Args:
      process: 'ddpm_linear' or 'ddpm_cosine', with its ``options``.
      prediction: what the network predicts, 'eps', 'x' or 'v'.
      clip: hold the denoised image in [-1, 1].

    Its steps are those of our ``ddim`` at the spacing ``uniform``: the first is the last entry of the table, and with a
    number of steps that divides the table each goes on where the one before has ended. A learned variance is not in
    it: the pipeline drops that half of the network's answer. Raises ValueError, in one line, for other choices.
    """
    for name, value, known in (("process", process, TABLES), ("prediction", prediction, PREDICTIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} cannot be exported: diffusers' scheduler has {', '.join(known)}")
    return {
        "_class_name": "DDIMScheduler",
        **TABLES[process].to(**options),
        "prediction_type": PREDICTIONS[prediction],
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def from_scheduler(config: Mapping[str, Any]) -> Schedule:
    """The sections of a config that a ``scheduler_config.json`` of diffusers stands for.

    What says how it steps is not read but for the class: spacings are ours. Raises ValueError, in one line, for another
    class, a table that no process of ours has, and a prediction that no network of diffusers' DiT has.
    """
    name, has = config.get("_class_name"), {**DEFAULTS, **config}
    if name not in SAMPLERS:
        raise ValueError(f"the scheduler is a {name}: choose from {', '.join(SAMPLERS)}")
    ours = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    for key, known in (("beta_schedule", SCHEDULES), ("prediction_type", ours)):
        if has[key] not in list(known):
            raise ValueError(f"the scheduler has {key}={has[key]!r}: choose from {', '.join(known)}")
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if has[key] != DEFAULTS[key]:
            raise ValueError(f"the scheduler has {key}, which no process here has")
    process, (sampler, clips) = SCHEDULES[has["beta_schedule"]], SAMPLERS[name]
    return Schedule(
        {"name": process, **TABLES[process].back(has)},
        {"name": ours[has["prediction_type"]]},
        {"name": sampler},
        bool(config.get("clip_sample", clips)),
    )
