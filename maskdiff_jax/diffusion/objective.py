"""The training loss: process, prediction, weighting, times and both kinds of mask, composed.

The random choices come first (`Objective.draw`), the loss of each image second (`Objective.per_image`). Gradient
accumulation, sharding and evaluation at fixed noise all slice or replace the first and reuse the second.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax import cond as conditions
from maskdiff_jax import rng, tokens
from maskdiff_jax.codec import identity
from maskdiff_jax.diffusion import times as time_sampling
from maskdiff_jax.diffusion.inputs import default, feed
from maskdiff_jax.diffusion.prediction import like, target
from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.diffusion.vlb import vlb_term
from maskdiff_jax.diffusion.weighting import in_space
from maskdiff_jax.types import (
    Array,
    Batch,
    Codec,
    Cond,
    Inputs,
    Key,
    Model,
    Params,
    Phase,
    Prediction,
    Process,
    Supervision,
    Times,
    Tokens,
    Visibility,
    Weighting,
)

Ids = Array | tuple[Array, ...] | None


class Draws(NamedTuple):
    """The random choices of a batch, each with leading axis b: t, its weight, one key an image, the kept conditions."""

    t: Array
    weight: Array
    keys: Key
    cond: Cond


class Objective(NamedTuple):
    """The loss and its parts.

    ``draw(batch, key) -> Draws``; ``per_image(params, batch, draws, *, train=True, key=None) -> (loss [b], metrics)``
    with metrics a dict of [b]; ``loss(params, batch, key) -> (scalar, metrics)`` their means, with dict of scalars.
    """

    draw: Callable[[Batch, Key], Draws]
    per_image: Callable[..., tuple[Array, dict[str, Array]]]
    loss: Callable[[Params, Batch, Key], tuple[Array, dict[str, Array]]]


def make_objective(
    model: Model,
    process: Process,
    prediction: Prediction,
    weighting: Weighting,
    times: Times,
    supervision: Supervision,
    *,
    inputs: Inputs | None = None,
    passes: tuple[tuple[float, Visibility | None], ...] = ((1.0, None),),
    codec: Codec | None = None,
    drop_semantics: float = 0.0,
    drop_everything: float = 0.0,
    weight_by_inclusion: bool = False,
    vlb_weight: float = 0.0,
    phase: Phase | None = None,
    text_padding: Callable[[Key, Cond], Cond] | None = None,
) -> Objective:
    """Compose a training objective.

    The loss of one image is Σ_pass w_pass · time weight · λ(t) · normalise(m) · Σ_u m_u·(out_u - target_u)², where u
    runs over the elements that the network answers for, m is the supervision mask and λ the weighting carried to the
    prediction's space. The target is cut into patches and gathered first; the mask is drawn on what is left. With
    several token segments each draws masks of its own, and a pass is the sum over them.

    passes: forward passes of one step with their weights and what each of them sees; None is every token.
    weight_by_inclusion: weight each visible token by 1/(its inclusion probability), so that the expectation over masks
        is the mean over all tokens also under non-uniform masks. MaskDM takes the plain mean (False).
    vlb_weight: adds vlb_weight · time weight · `vlb.vlb_term`, averaged over the elements that the network answers for.
        It trains the variance alone, without λ(t) and without the supervision mask, which both belong to the squared
        error. The term is in nats per element summed over the T steps; 0.001 is iDDPM's (Nichol & Dhariwal 2021,
        L_hybrid), whose code counts bits: 0.001/ln 2 is the same there. 0 leaves it out.
    phase: how far low-level controls are let in at t, `diffusion.phase`; None: fully.
    text_padding: what becomes of the padding of texts, before conditions are dropped: `cond.TEXT_PADDINGS`; None:
        nothing.
    Raises ValueError where a visibility hides tokens of a network that has none, no pass is given, or vlb_weight is
    negative or asked of a process without a table; when traced, where it is asked of a network without a variance.
    """
    inputs, codec = inputs or default(), codec or identity()
    if not passes:
        raise ValueError("an objective needs at least one pass")
    if model.tokens is None and any(visibility is not None and visibility.hides for _, visibility in passes):
        raise ValueError("a network without tokens (a U-Net) cannot hide tokens: use visibility 'all'")
    if not (math.isfinite(vlb_weight) and vlb_weight >= 0):
        raise ValueError(f"vlb_weight must be finite and at least 0, got {vlb_weight}")
    if vlb_weight and process.steps is None:
        raise ValueError(f"vlb_weight={vlb_weight} needs a process with a table of steps: ddpm_linear or ddpm_cosine")

    def units(image: Array, ids: Ids) -> tuple[Array, ...]:
        """An image as the network answers for it, by segments: whole, or cut into tokens of which ``ids`` are kept."""
        parts = (image,) if model.tokens is None else tokens.cut(image, model.tokens)
        return tuple(p if i is None else tokens.gather(p, i) for p, i in zip(parts, each(ids, parts), strict=True))

    def draw(batch: Batch, key: Key) -> Draws:
        b = batch.image.shape[0]
        t, weight = time_sampling.sample(times, process, rng.key_for(key, "times"), b)
        keys = rng.per_image(key, b)
        cond = batch.cond if text_padding is None else text_padding(rng.key_for(keys, "text_padding"), batch.cond)
        kept = conditions.drop(rng.key_for(keys, "drop"), cond, drop_semantics, drop_everything)
        return Draws(t, weight, keys, kept)

    def per_image(
        params: Params, batch: Batch, draws: Draws, *, train: bool = True, key: Key | None = None
    ) -> tuple[Array, dict[str, Array]]:
        x = codec.encode(None, batch.image, rng.key_for(draws.keys, "encode"))
        eps = rng.normal(rng.key_for(draws.keys, "noise"), x.shape[1:])
        c = coeffs(process, draws.t)
        x_t = like(c.alpha, x) * x + like(c.sigma, x) * eps
        image, level, cond = feed(inputs, process, c, x_t, draws.t, draws.cond, phase)
        goal = target(prediction, c, x, eps)
        scale = in_space(weighting, prediction, c)

        def one_pass(index: int, visibility: Visibility | None) -> tuple[Array, dict[str, Array]]:
            keys = rng.key_for(draws.keys, f"pass {index}")
            visible = _visible_ids(visibility, rng.key_for(keys, "visibility"), model)
            out = model.apply(params, image, level, cond, visible=visible, train=train, key=key)
            if vlb_weight and out.variance is None:
                raise ValueError(f"vlb_weight={vlb_weight} needs a network with a variance: learned_variance=True")
            goals, clean = units(goal, out.ids), units(x, out.ids) if vlb_weight else None

            def segment(i: int) -> tuple[Array, dict[str, Array]]:
                error = each(out.prediction, goals)[i].astype(jnp.float32) - goals[i]
                square = jnp.square(error)
                elements = range(1, error.ndim)
                measured = {"mse": jnp.mean(square, axis=elements)}
                share: Array | float = 1.0
                if weight_by_inclusion and visible is not None and visibility is not None:
                    share = like(_token_weights(visibility, each(out.ids, goals)[i], model, i), error)
                mask = supervision.sample(_of_segment(rng.key_for(keys, "supervision"), i), error.shape[1:])
                kept = jnp.sum(jnp.where(mask, share * square, 0), axis=elements)
                loss = scale * supervision.normalise(mask, error.shape[1:]) * kept
                if clean is not None:
                    nats = vlb_term(process, prediction, draws.t, clean[i], error, each(out.variance, goals)[i])
                    nats = jnp.mean(share * nats, axis=elements)
                    loss, measured = loss + vlb_weight * nats, {**measured, "vlb": nats}
                return loss, measured

            return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *map(segment, range(len(goals))))

        results = [(w, *one_pass(i, visibility)) for i, (w, visibility) in enumerate(passes)]
        loss = draws.weight * jnp.sum(jnp.stack([w * value for w, value, _ in results]), axis=0)
        return loss, jax.tree.map(lambda *values: jnp.mean(jnp.stack(values), axis=0), *[m for *_, m in results])

    def loss(params: Params, batch: Batch, key: Key) -> tuple[Array, dict[str, Array]]:
        values, metrics = per_image(params, batch, draw(batch, key), key=rng.key_for(key, "network"))
        return jnp.mean(values), jax.tree.map(jnp.mean, metrics)

    return Objective(draw, per_image, loss)


def each(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """An entry for each of the parts: a tuple as it is, one value for the only part, None for all of them."""
    return value if isinstance(value, tuple) else (value,) * (len(parts) if value is None else 1)


def _of_segment(keys: Key, i: int) -> Key:
    return keys if i == 0 else rng.key_for(keys, f"segment {i}")


def _visible_ids(visibility: Visibility | None, keys: Key, model: Model) -> Ids:
    """The ids [b, k] of the visible tokens (a tuple for segments), or None where all are visible."""
    if visibility is None or model.tokens is None:
        return None
    grids = [segment.grid for segment in tokens.segments(model.tokens)]
    ids = tuple(visibility.sample(_of_segment(keys, i), grid) for i, grid in enumerate(grids))
    if all(chosen.shape[1] == math.prod(grid) for chosen, grid in zip(ids, grids, strict=True)):
        return None  # sorted and distinct, n of n ids are 0..n-1
    return ids[0] if isinstance(model.tokens, Tokens) else ids


def _token_weights(visibility: Visibility, ids: Array | None, model: Model, segment: int) -> Array:
    """k/(n·inclusion) for each answered token [b, k]: the mean over them then estimates the mean over all n."""
    if ids is None or model.tokens is None:
        raise ValueError("weighting by inclusion needs a network that answers for the visible tokens")
    inclusion = visibility.inclusion(tokens.segments(model.tokens)[segment].grid)
    return ids.shape[1] / (inclusion.shape[0] * inclusion[ids])
