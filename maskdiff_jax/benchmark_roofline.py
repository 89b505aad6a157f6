"""Where a training step spends its time: each part alone, against what arithmetic and memory allow at most."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.build import Experiment, abstract_batch, mesh_for
from maskdiff_jax.masks import VISIBILITIES
from maskdiff_jax.models.parts import Part, network_parts
from maskdiff_jax.parts import part
from maskdiff_jax.plan import nbytes
from maskdiff_jax.tokens import cut, gather, segments
from maskdiff_jax.train.ceilings import seconds_of
from maskdiff_jax.train.flops import training_flops
from maskdiff_jax.train.state import abstract_state

LEAST = 0.1  # seconds of a timing
FILL = 1e-3  # what a state is made of


class Ceilings(NamedTuple):
    """FLOP/s and bytes a second of one device."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """What a part of a step takes in all its calls on one device, and the least that it computes and moves."""

    calls: int
    seconds: float
    flops: float
    bytes: float

    def __add__(self, other: Any) -> "Work":
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


def roofline(
    experiment: Experiment, devices: Sequence[Any], ceilings: Ceilings, step_seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """A row for each part of a training step, the longest first, then what is left of the step.

    ``seconds`` of all calls of a step on one device, forward and backward, of each kind of layer alone, at the shapes
    and in the arithmetic of the config. ``bytes``: what a part is given and what it gives, parameters and gradients
    included, once each: no more need move. ``bound``: which ceiling is the nearer one, of ``arithmetic`` and
    ``memory``; ``reached``: the time that it allows over that which is taken, more than 1 where data stay in a cache.
    A network without Linen modules has the rows of the optimiser and of gathering alone.
    """
    config, mesh = experiment.config, mesh_for(experiment.config, devices)
    size = config.batch // mesh.size // config.accumulate
    params = jax.eval_shape(experiment.model.init, jax.random.key(0))
    batch = abstract_batch(experiment, size)
    found: dict[str, Work] = {}
    for layer in network_parts(experiment.objective.loss, params, batch, jax.random.key(0)):
        work = _layer(layer, devices[0], rounds)
        scaled = Work(*(layer.count * config.accumulate * value for value in work))
        found[layer.part] = found.get(layer.part, Work(0, 0.0, 0.0, 0.0)) + scaled
    found["optimiser"] = _optimiser(experiment, mesh, rounds)
    if gathering := _gathering(experiment, size, devices[0], rounds):
        found["gather"] = Work(*(config.accumulate * value for value in gathering))
    rows = [_row(name, work, ceilings, step_seconds) for name, work in found.items()]
    rows.sort(key=lambda row: -row["seconds"])
    left = step_seconds - sum(row["seconds"] for row in rows)
    return [*rows, {"part": "the rest", "seconds": left, "of_step": left / step_seconds}]


def _row(name: str, work: Work, ceilings: Ceilings, step_seconds: float) -> dict[str, Any]:
    arithmetic, memory = work.flops / ceilings.flops, work.bytes / ceilings.bytes
    return {
        "part": name,
        **work._asdict(),
        "of_step": work.seconds / step_seconds,
        "flops_per_second": work.flops / work.seconds,
        "bytes_per_second": work.bytes / work.seconds,
        "bound": "arithmetic" if arithmetic > memory else "memory",
        "bound_seconds": max(arithmetic, memory),
        "reached": max(arithmetic, memory) / work.seconds,
    }


def _layer(layer: Part, device: Any, rounds: int) -> Work:
    """One call, forward and backward."""
    is_float = [jnp.issubdtype(shape.dtype, jnp.inexact) for shape in layer.arrays]

    def forward(params: Any, floats: list[Any], others: list[Any]) -> list[jax.Array]:
        given = [iter(others), iter(floats)]
        out = layer.apply(params, [next(given[which]) for which in is_float])
        return [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def both(params: Any, floats: list[Any], others: list[Any], ahead: list[Any]) -> Any:
        out, back = jax.vjp(lambda p, x: forward(p, x, others), params, floats)
        return out, back(ahead)

    floats = [shape for shape, yes in zip(layer.arrays, is_float, strict=True) if yes]
    others = [shape for shape, yes in zip(layer.arrays, is_float, strict=True) if not yes]
    shapes = (layer.params, floats, others, jax.eval_shape(forward, layer.params, floats, others))
    flops = training_flops(forward, *shapes[:3])
    moved = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((shapes, jax.eval_shape(both, *shapes))))
    given = jax.device_put(_drawn(shapes), device)
    compiled = jax.jit(both)
    return Work(1, _median(lambda: compiled(*given), rounds), flops, moved)


def _optimiser(experiment: Experiment, mesh: Any, rounds: int) -> Work:
    """Clipping, guard, update and average, in place, on the parameters as they are laid out."""
    state = abstract_state(experiment.model, experiment.optimizer, mesh)
    shapes = (state.params, state.opt_state, state.params)
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)

    def filled() -> Any:
        return jax.tree.map(lambda s: jnp.full(s.shape, FILL if s.dtype == jnp.float32 else 1, s.dtype), shapes)

    grads, opt_state, params = jax.jit(filled, out_shardings=places)()
    apply = jax.jit(experiment.optimizer.apply, donate_argnums=(1, 2), out_shardings=(places[2], places[1]))
    held = [params, opt_state]

    def call() -> Any:
        held[:] = apply(grads, held[1], held[0])
        return held

    moved = nbytes(state.params) + 2 * (nbytes(state.params) + nbytes(state.opt_state))
    return Work(1, _median(call, rounds), 0.0, moved)


def _gathering(experiment: Experiment, size: int, device: Any, rounds: int) -> Work | None:
    """Drawing the visible tokens and taking them, of the image and of the target; None where all are visible."""
    config, tokens = experiment.config, experiment.model.tokens
    settings = [("visibility", config.visibility)]
    if config.second_pass.weight:
        settings.append(("second_pass.visibility", config.second_pass.visibility))
    hiding = [found for found in (part(path, VISIBILITIES, own) for path, own in settings) if found.hides]
    if tokens is None or not hiding:
        return None

    def take(keys: Any, images: list[jax.Array]) -> Any:
        ids = [[v.sample(keys, segment.grid) for segment in segments(tokens)] for v in hiding]
        return [[gather(p, i) for p, i in zip(cut(x, tokens), own, strict=True)] for own in ids for x in images]

    keys = rng.per_image(jax.random.key(0), size)
    shape = jax.ShapeDtypeStruct((size, *experiment.codec.shape(experiment.image_shape)), jnp.float32)
    given = jax.device_put((keys, _drawn([shape, shape])), device)
    moved = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(take, *given)))
    compiled = jax.jit(take)
    return Work(1, _median(lambda: compiled(*given), rounds), 0.0, moved)


def _drawn(shapes: Any) -> Any:
    """Random numbers in these shapes; integers are 0, and masks let all through."""
    random = np.random.default_rng(0)

    def array(shape: Any) -> np.ndarray:
        if jnp.issubdtype(shape.dtype, jnp.inexact):
            return random.standard_normal(shape.shape, np.float32).astype(shape.dtype)
        return np.full(shape.shape, shape.dtype == bool, shape.dtype)

    return jax.tree.map(array, shapes)


def _median(call: Callable[[], Any], rounds: int) -> float:
    return float(np.median(seconds_of(call, rounds, LEAST)))
