"""Text by a frozen encoder: its tokens for attention, and its pooled vector for adaLN."""

import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.models.conditioning.base import Context, SiluMlp, given
from maskdiff_jax.models.layers import embedding_init, linear
from maskdiff_jax.types import Cond, CondShape


def text(shape: CondShape, width: int, hidden: int | None = None) -> nn.Module:
    """Text tokens [b, l, d] of any width d, projected to the backbone's; masked ones are not attended to.

    One learned token stands before them and is never masked: a null text would else leave cross-attention nothing to
    attend to, where a softmax is undefined. It is the same for every image. Tokens get no positions, since encoders
    have put the order into them: permuting them with their mask changes nothing.

    hidden: units of a two-layer projection with a GELU (tanh approximation) between, the backbone's width in PixArt-α
        (Chen et al. 2023); None is one linear layer, as in SD3 (Esser et al. 2024), and enough for features that
        every block projects once more.
    Raises ValueError where the data carry no text or hidden < 1; when called, where cond.text is None, comes without
    its mask, or is of another width.
    """
    if min(shape.text_length, shape.text_width) < 1:
        raise ValueError(f"conditioning on text needs text, got {shape.text_length} tokens of width {shape.text_width}")
    if hidden is not None and hidden < 1:
        raise ValueError(f"text: hidden must be at least 1, or None for one linear layer, got {hidden}")
    return TextTokens(shape.text_width, width, hidden)


def pooled(shape: CondShape, width: int) -> nn.Module:
    """The pooled text [b, d] as a vector, through a two-layer SiLU MLP (SD3, Esser et al. 2024).

    The null, a vector of 0, has an answer of its own in the biases.
    Raises ValueError where the data carry none; when called, where cond.pooled is None or of another width.
    """
    if shape.pooled_width < 1:
        raise ValueError(f"conditioning on pooled text needs pooled_width ≥ 1, got {shape.pooled_width}")
    return PooledVector(shape.pooled_width, width)


class TextTokens(nn.Module):
    """See `text`. The tokens are [b, 1 + l, width]."""

    text_width: int
    width: int
    hidden: int | None

    @nn.compact
    def __call__(self, cond: Cond) -> Context:
        h = given(cond, "text", self.text_width)
        if cond.text_mask is None:
            raise ValueError("cond.text comes without cond.text_mask")
        if self.hidden is not None:
            h = nn.gelu(linear(h, self.hidden, name="hidden"), approximate=True)
        h = linear(h, self.width, name="out")
        null = jnp.broadcast_to(self.param("null", embedding_init, (1, 1, self.width)), (h.shape[0], 1, self.width))
        seen = jnp.ones((h.shape[0], 1), bool)
        return Context(tokens=jnp.concatenate([null, h], axis=1), mask=jnp.concatenate([seen, cond.text_mask], axis=1))


class PooledVector(nn.Module):
    """See `pooled`."""

    pooled_width: int
    width: int

    @nn.compact
    def __call__(self, cond: Cond) -> Context:
        return Context(vector=SiluMlp(self.width, name="mlp")(given(cond, "pooled", self.pooled_width)))
