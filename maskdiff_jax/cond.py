"""Conditions: their null, and dropping them at random for classifier-free guidance.

A null is a value, not an absence, so shapes stay static: label -1; text and its pooled vector 0 with every position
masked; controls ``NULL_CONTROL``, which an embedder must map to the zero vector.
"""

import jax
import jax.numpy as jnp

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
