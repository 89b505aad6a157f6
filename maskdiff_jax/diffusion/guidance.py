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
    return lambda denoiser: denoiser if scale == 1 else _guided(denoiser, ("semantics", scale))


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
                return jax.lax.cond(inside, _guided(denoiser, ("semantics", scale)), denoiser, x, t, cond)
            return _guided(denoiser, ("semantics", jnp.where(inside, scale, 1.0)))(x, t, cond)

        return guided

    return guidance


def two_scale(semantic: float, control: float) -> Guidance:
    """D(∅, ∅) + control·[D(∅, s) - D(∅, ∅)] + semantic·[D(c, s) - D(∅, s)], semantics c and controls s.

    Separate guidance for both (Berrada Ifriqi et al. 2024, arXiv 2411.03177, whose λ is ``control`` and λβ
    ``semantic``; the form is ours, after second-hand accounts of the paper). Both at 1 is the denoiser itself, returned
    unchanged; ``control`` = 1 is `classifier_free`. Those with ``control`` = 1 and those with equal scales take two
    evaluations, all others three, in one call on a longer batch. The variance is that of D(c, s).
    The network must have been trained with everything dropped at times (`cond.drop`), or D(∅, ∅) means nothing.
    Raises ValueError where a scale is negative or not finite and, when first called, where the condition has no
    semantics or no controls.
    """
    _check_scale("two_scale", semantic, "semantic")
    _check_scale("two_scale", control, "control")
    steps: list[tuple[str, float | Array]] = [("semantics", semantic), ("all", control)]
    if semantic == control:
        steps = steps[1:]  # D(∅, s) cancels
    elif control == 1:
        steps = steps[:1]  # D(∅, ∅) cancels

    def guidance(denoiser: Denoiser) -> Denoiser:
        def guided(x: Array, t: Array, cond: Cond) -> Denoised:
            if cond.controls_high is None and cond.controls_low is None:
                raise ValueError("two_scale needs controls: controls_high and controls_low are both None")
            return _guided(denoiser, *steps)(x, t, cond)

        return denoiser if semantic == control == 1 else guided

    return guidance


def resolution_scale(scale: float, trained_side: float, side: float) -> float:
    """A guidance scale tuned at images of side ``trained_side`` for those of ``side``: 1 + side/trained_side·(scale-1).

    Guidance that grows with the resolution (Berrada Ifriqi et al. 2024; the form is ours, after second-hand accounts of
    the paper). For `two_scale` it is λ that grows: control = λ', semantic = λ'·β with the same β.
    Raises ValueError where the scale is below 1 or not finite, or a side is not positive.
    """
    if not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"resolution_scale: scale must be finite and at least 1, got {scale}")
    if not (trained_side > 0 and side > 0):
        raise ValueError(f"resolution_scale: sides must be > 0, got trained_side={trained_side} and side={side}")
    return 1 + side / trained_side * (scale - 1)


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


def _guided(denoiser: Denoiser, *steps: tuple[str, float | Array]) -> Denoiser:
    """D(c) + Σ_i (w_i - 1)·(D_i - D_{i+1}), D_0 = D(c), each step (part of `cond.null`, w) nulling more than the last.

    A weight is one number, or one per image [b]. All estimates are one evaluation on a longer batch.
    """

    def guided(x: Array, t: Array, cond: Cond) -> Denoised:
        if cond.label is None and cond.text is None and cond.pooled is None:
            raise ValueError("guidance needs a condition: label, text and pooled are all None")
        conds, t = [cond, *(null(cond, which) for which, _ in steps)], jnp.asarray(t)
        n = len(conds)
        times = _interleave(*[t] * n) if t.ndim else t
        out = denoiser(_interleave(*[x] * n), times, jax.tree.map(_interleave, *conds))
        estimates = _separate(out.x, n)
        guided_x = estimates[0]  # exactly D(c) where the weights are 1
        for (_, scale), given, free in zip(steps, estimates[:-1], estimates[1:], strict=True):
            weight = jnp.reshape(jnp.asarray(scale, given.dtype), (-1,) + (1,) * (x.ndim - 1))
            guided_x = guided_x + (weight - 1) * (given - free)
        return Denoised(guided_x, None if out.variance is None else _separate(out.variance, n)[0])

    return guided


# The copies of an image are neighbours, so that a longer batch sharded over devices moves nothing between them.
def _interleave(*copies: Array) -> Array:
    return jnp.stack(copies, axis=1).reshape(-1, *copies[0].shape[1:])


def _separate(batch: Array, n: int) -> list[Array]:
    groups = batch.reshape(-1, n, *batch.shape[1:])
    return [groups[:, i] for i in range(n)]


def _check_scale(name: str, value: float, option: str = "scale") -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: {option} must be finite and at least 0, got {value}")


GUIDANCES = {"classifier_free": classifier_free, "interval": interval, "two_scale": two_scale}
