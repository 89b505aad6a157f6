"""What a condition may give to a backbone, whatever the condition is.

A member of `CONDITIONINGS` is a factory ``(classes, width, **options) -> nn.Module``; the module maps a `Cond` to a
`Context`. A backbone merges the contexts of its members and knows none of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Context(NamedTuple):
    """The two ways in; absent ones are None.

    ``vector`` is added to the level embedding and so acts through adaLN. ``tokens`` join the image's tokens in
    self-attention and are left out of the output (the in-context conditioning of Peebles & Xie 2023, §3.2).
    """

    vector: Float[Array, "b width"] | None = None
    tokens: Float[Array, "b m width"] | None = None


def merge(contexts: Sequence[Context]) -> Context:
    """One context from several: vectors are summed, tokens concatenated in the given order."""
    vectors = [c.vector for c in contexts if c.vector is not None]
    tokens = [c.tokens for c in contexts if c.tokens is not None]
    return Context(
        vector=sum(vectors[1:], vectors[0]) if vectors else None,
        tokens=jnp.concatenate(tokens, axis=1) if tokens else None,
    )
