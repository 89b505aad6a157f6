"""What a condition may give to a backbone, whatever the condition is.

A member of `CONDITIONINGS` is a factory ``(shape, width, **options) -> nn.Module``, with the `CondShape` of the data
and the width of the backbone; the module maps a `Cond` to a `Context`. A backbone merges the contexts of its members
and knows none of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jaxtyping import Array, Bool, Float

from maskdiff_jax.models.layers import embedding_init, linear
from maskdiff_jax.types import Cond


class Context(NamedTuple):
    """The two ways in; absent ones are None.

    ``vector`` is added to the level embedding and so acts through adaLN. ``tokens`` are attended to: beside the image's
    tokens in self-attention and left out of the output (the in-context conditioning of Peebles & Xie 2023, §3.2), or by
    cross-attention, as the backbone does it. ``mask`` is False at tokens that nobody attends to; None: there are none.
    """

    vector: Float[Array, "b width"] | None = None
    tokens: Float[Array, "b m width"] | None = None
    mask: Bool[Array, "b m"] | None = None


def merge(contexts: Sequence[Context]) -> Context:
    """One context from several: vectors are summed, tokens concatenated in the given order."""
    vectors = [c.vector for c in contexts if c.vector is not None]
    tokens = [c.tokens for c in contexts if c.tokens is not None]
    masks = [jnp.ones(c.tokens.shape[:2], bool) if c.mask is None else c.mask for c in contexts if c.tokens is not None]
    return Context(
        vector=sum(vectors[1:], vectors[0]) if vectors else None,
        tokens=jnp.concatenate(tokens, axis=1) if tokens else None,
        mask=jnp.concatenate(masks, axis=1) if any(c.mask is not None for c in contexts) else None,
    )


def given(cond: Cond, name: str, width: int) -> Float[Array, "b *l {width}"]:
    """``cond.<name>``. Raises ValueError where it is None or its last axis is not ``width``."""
    value = getattr(cond, name)
    if value is None:
        raise ValueError(f"the network is conditioned on {name}, but cond.{name} is None")
    if value.shape[-1] != width:
        raise ValueError(f"{name} of width {value.shape[-1]}, this network was built for {width}")
    return value


class SiluMlp(nn.Module):
    """Two layers to ``width`` with a SiLU between, as the noise level has; float32."""

    width: int
    out_init: Initializer = embedding_init

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b width"]:
        h = nn.silu(linear(x, self.width, kernel_init=embedding_init, name="hidden"))
        return linear(h, self.width, kernel_init=self.out_init, name="out")
