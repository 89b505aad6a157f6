"""Guidance: wrappers Denoiser -> Denoiser that push an estimate towards its condition."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskdiff_jax.cond import null
from maskdiff_jax.types import Array, Cond, Denoised, Denoiser

Guidance = Callable[[Denoiser], Denoiser]


def classifier_free(scale: float) -> Guidance:
    """D(∅) + scale·(D(c) - D(∅)), where ∅ nulls the semantics and keeps the controls (Ho & Salimans 2022, eq. 6).

    scale = 1 + w of that paper: 0 is unconditional, 1 is the denoiser itself, which is then returned unchanged. Both
    halves are one evaluation on a doubled batch. The variance is that of the conditional half.
    Raises ValueError where ``scale`` is negative or not finite and, when first called, where the condition has no
    semantics.
    """
    _check_scale("classifier_free", scale)
    return lambda denoiser: denoiser if scale == 1 else _guided(denoiser, scale)


def interval(scale: float, low: float, high: float) -> Guidance:
    """`classifier_free` where low <= t <= high, the denoiser itself elsewhere (Kynkäänniemi et al. 2024).

    The paper states its interval in sigma; here it is in t, for which `Process.t_of_log_snr` converts. With a scalar t,
    as samplers pass it, the unguided times cost one evaluation; with t [b] every image is evaluated twice and the
    choice is made per image.
    Raises ValueError as `classifier_free` does, and unless 0 <= low < high <= 1.
    """
    _check_scale("interval", scale)
    if not 0 <= low < high <= 1:
        raise ValueError(f"interval: needs 0 <= low < high <= 1, got low={low} and high={high}")

    def guidance(denoiser: Denoiser) -> Denoiser:
        if scale == 1:
            return denoiser

        def guided(x: Array, t: Array, cond: Cond) -> Denoised:
            t = jnp.asarray(t)
            inside = (low <= t) & (t <= high)
            if t.ndim == 0:
                return jax.lax.cond(inside, _guided(denoiser, scale), denoiser, x, t, cond)
            return _guided(denoiser, jnp.where(inside, scale, 1.0))(x, t, cond)

        return guided

    return guidance


def auto(scale: float) -> Callable[[Denoiser, Denoiser], Denoiser]:
    """D_weak + scale·(D - D_weak), given (denoiser, weak) (Karras et al. 2024, arXiv 2406.02507, eq. 3).

    ``weak`` is a smaller or less trained version of the same model, for example its parameters from an earlier average;
    it needs no null condition, so images without one can be guided too. Each denoiser is evaluated once; the variance
    is that of the first. A scale of 1 returns the first unchanged. Not in `GUIDANCES`, since it takes two denoisers.
    Raises ValueError where ``scale`` is negative or not finite.
    """
    _check_scale("auto", scale)

    def guidance(denoiser: Denoiser, weak: Denoiser) -> Denoiser:
        def guided(x: Array, t: Array, cond: Cond) -> Denoised:
            strong = denoiser(x, t, cond)
            return strong._replace(x=strong.x + (scale - 1) * (strong.x - weak(x, t, cond).x))

        return denoiser if scale == 1 else guided

    return guidance


def _guided(denoiser: Denoiser, scale: float | Array) -> Denoiser:
    """Classifier-free guidance with one scale, or one per image [b]."""

    def guided(x: Array, t: Array, cond: Cond) -> Denoised:
        if cond.label is None and cond.text is None and cond.pooled is None:
            raise ValueError("guidance needs a condition: label, text and pooled are all None")
        t = jnp.asarray(t)
        both = denoiser(_pair(x, x), _pair(t, t) if t.ndim else t, jax.tree.map(_pair, cond, null(cond, "semantics")))
        given, free = _unpair(both.x)
        weight = jnp.reshape(jnp.asarray(scale, given.dtype), (-1,) + (1,) * (x.ndim - 1))
        variance = None if both.variance is None else _unpair(both.variance)[0]
        return Denoised(given + (weight - 1) * (given - free), variance)  # exactly D(c) where the weight is 1

    return guided


# The halves of a pair are neighbours, so that doubling a batch that is sharded over devices moves nothing between them.
def _pair(a: Array, b: Array) -> Array:
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _unpair(both: Array) -> tuple[Array, Array]:
    pairs = both.reshape(-1, 2, *both.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def _check_scale(name: str, scale: float) -> None:
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"{name}: scale must be finite and at least 0, got {scale}")


GUIDANCES = {"classifier_free": classifier_free, "interval": interval}
