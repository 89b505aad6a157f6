"""Conditions: their null, dropping them at random for classifier-free guidance, and how text fills its padding.

A null is a value, not an absence, so shapes stay static: label -1; text and its pooled vector 0 with every position
masked; controls ``NULL_CONTROL``, which an embedder must map to the zero vector.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskdiff_jax import rng
from maskdiff_jax.types import Array, Cond, CondShape, Key

SEMANTICS = ("label", "text", "text_mask", "pooled")
CONTROLS = ("controls_high", "controls_low")
PARTS = {"semantics": SEMANTICS, "controls": CONTROLS, "all": SEMANTICS + CONTROLS}

NULL_LABEL = -1
NULL_CONTROL = -1e6  # finite, so that NaN checks stay usable; far outside pixels, degrees and fractions
_NULLS = {"label": NULL_LABEL, "controls_high": NULL_CONTROL, "controls_low": NULL_CONTROL}


def example(shape: CondShape, b: int = 1) -> Cond:
    """Conditions of ``shape`` for ``b`` images, every one at label 0, unmasked and otherwise 0."""

    def zeros(*sizes: int) -> Array | None:
        return jnp.zeros((b, *sizes)) if all(sizes) else None

    text = zeros(shape.text_length, shape.text_width)
    return Cond(
        label=jnp.zeros(b, jnp.int32) if shape.classes else None,
        text=text,
        text_mask=None if text is None else jnp.ones((b, shape.text_length), bool),
        pooled=zeros(shape.pooled_width),
        controls_high=zeros(shape.controls_high),
        controls_low=zeros(shape.controls_low),
    )


def null(cond: Cond, which: str = "semantics") -> Cond:
    """``cond`` with the parts of ``which`` ('semantics', 'controls' or 'all') at their null; None stays None."""
    if which not in PARTS:
        raise ValueError(f"which={which!r}: choose from {', '.join(PARTS)}")
    values = {name: getattr(cond, name) for name in PARTS[which]}
    return cond._replace(**{n: jnp.full_like(v, _NULLS.get(n, 0)) for n, v in values.items() if v is not None})


def drop(keys: Key, cond: Cond, semantics: float = 0.0, everything: float = 0.0) -> Cond:
    """Per image, null the semantics alone with probability ``semantics`` or all parts with probability ``everything``.

    The two events exclude each other (one uniform draw per image, ``keys`` [b]), so (c, null) never appears
    (Berrada Ifriqi et al. 2024; for a label alone this is the drop-out of Ho & Salimans 2022).
    Raises ValueError where the rates are not probabilities with a sum of at most 1.
    """
    if min(semantics, everything) < 0 or semantics + everything > 1:
        raise ValueError(f"drop rates must be ≥ 0 with a sum of at most 1, got {semantics} and {everything}")
    if semantics + everything == 0:
        return cond
    u = jax.vmap(jax.random.uniform)(keys)

    def select(hit: Array, new: Cond, old: Cond) -> Cond:
        pick = lambda a, b: jnp.where(hit.reshape(hit.shape + (1,) * (a.ndim - 1)), a, b)  # noqa: E731
        return jax.tree.map(pick, new, old)

    cond = select(u < semantics + everything, null(cond, "semantics"), cond)
    return select(u < everything, null(cond, "all"), cond)


# (keys [b], cond) -> cond, with other text where there is none. Dropping before or after gives the same.
TextPadding = Callable[[Key, Cond], Cond]


def zero_padding() -> TextPadding:
    """Text with 0 at its masked positions, which stay masked."""

    def pad(keys: Key, cond: Cond) -> Cond:
        if cond.text is None:
            return cond
        return cond._replace(text=jnp.where(_text_mask(cond)[:, :, None], cond.text, 0))

    return pad


def replicate_padding() -> TextPadding:
    """The n real tokens of an image over and over: position i holds number i mod n, and none is masked any more.

    Real tokens may stand anywhere in ``text`` [b, l, d]; they keep their order. An image without any (n = 0) is null:
    0 and masked. The ablation of `noisy_replicate_padding`.
    """
    return noisy_replicate_padding(noise=0.0)


def noisy_replicate_padding(noise: float = 0.02) -> TextPadding:
    """`replicate_padding` with N(0, 1)·noise·std·√(m - 1) added to every copy (Berrada Ifriqi et al. 2024).

    std [b, d] is that of the image's n real tokens in each channel (÷ n, so 0 where n = 1); m = ⌈l/n⌉ counts how often
    they are laid out. The first n are the tokens themselves and get no noise. Which positions do, and when the noise is
    drawn anew, is not specified by the paper; the formula and the default of ``noise`` (its β_txt) are second-hand.
    Raises ValueError where ``noise`` is negative or not finite and, when called, where text comes without its mask.
    """
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noisy_replicate: noise must be finite and at least 0, got {noise}")

    def pad(keys: Key, cond: Cond) -> Cond:
        if cond.text is None:
            return cond
        mask, text = _text_mask(cond), cond.text
        length, d = text.shape[1:]
        n = jnp.sum(mask, axis=1, keepdims=True)  # [b, 1]
        divisor = jnp.maximum(n, 1)
        place = jnp.arange(length)[None]
        real_first = jnp.argsort(~mask, axis=1, stable=True)
        filled = jnp.take_along_axis(text, jnp.take_along_axis(real_first, place % divisor, axis=1)[:, :, None], axis=1)
        if noise:
            real = mask[:, :, None]
            values = text.astype(jnp.float32)
            mean = jnp.sum(values, axis=1, keepdims=True, where=real) / divisor[:, :, None]
            square = jnp.sum(jnp.square(values - mean), axis=1, keepdims=True, where=real) / divisor[:, :, None]
            spread = jnp.sqrt(square * (-(-length // divisor) - 1)[:, :, None])
            noisy = filled + noise * spread * rng.normal(keys, (length, d))
            filled = jnp.where((place < n)[:, :, None], filled, noisy.astype(text.dtype))
        any_real = jnp.broadcast_to(n > 0, mask.shape)
        return cond._replace(text=jnp.where(any_real[:, :, None], filled, 0), text_mask=any_real)

    return pad


def _text_mask(cond: Cond) -> Array:
    if cond.text_mask is None:
        raise ValueError("cond.text comes without cond.text_mask")
    return cond.text_mask


TEXT_PADDINGS = {
    "zero": zero_padding,
    "replicate": replicate_padding,
    "noisy_replicate": noisy_replicate_padding,
}
