"""What a place that holds a trained network gives: to draw with, and to train on from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from maskdiff_jax.build import Experiment, build
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.types import Params

T = TypeVar("T")

COSTS = ("steps", "images", "flops", "seconds")


class Network(NamedTuple):
    """A config, for ``build(ConfigDict(config))``, its parameters, float32, and the step that they are of, if known."""

    config: dict[str, Any]
    params: Params
    step: int | None


class Built(NamedTuple):
    """What a config builds, with its averaged parameters, and the step that they are of, if known."""

    experiment: Experiment
    params: Params
    step: int | None


class Inherited(NamedTuple):
    """Parameters to train on from, and what it had cost to train them, what they inherited included.

    ``cost``: of each of `COSTS` a number, or None where it is not known. ``config``: theirs, where one is known to be.
    """

    source: Path
    step: int | None
    params: Params
    cost: dict[str, Any]
    config: dict[str, Any] | None


class Kind(NamedTuple):
    """One kind of place.

    ``holds(path)``: whether a path is one. ``use(path, checkpoint, vae)``: what draws; ``checkpoint`` is "newest" or
    another one of a run, ``vae`` the folder of the autoencoder that decodes latents, "" for the one that is known.
    ``start(path, weights)``: what trains on, the "raw" parameters or the first average ("ema") of a run; a file holds
    one set. They raise ConfigError (``holds`` ValueError) or CheckpointError in one line, OSError for unreadable files.
    """

    holds: Callable[[Path], bool]
    use: Callable[[Path, str, str], Built]
    start: Callable[[Path, str], Inherited]


def of_files(holds: Callable[[Path], bool], read: Callable[[Path, str], Network]) -> Kind:
    """A kind of which ``read(path, vae)`` gives all that there is, or raises ValueError.

    What its training has cost is not known.
    """

    def use(path: Path, checkpoint: str, vae: str) -> Built:
        if checkpoint != "newest":
            raise ConfigError(f"checkpoint={checkpoint!r}: {path} is no run, so there is one set of weights")
        network = checked(read, path, vae)
        return Built(build(ConfigDict(network.config)), network.params, network.step)

    def start(path: Path, weights: str) -> Inherited:
        network = checked(read, path, "")
        cost = dict.fromkeys(COSTS) | {"steps": network.step}
        return Inherited(path, network.step, network.params, cost, network.config)

    return Kind(holds, use, start)


def checked(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)``, its ValueError as a ConfigError."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from error
