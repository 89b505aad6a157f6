"""The class label: a learned row per class and one more for the null label (any negative number)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maskdiff_jax.models.conditioning.base import Context
from maskdiff_jax.models.layers import embedding_init
from maskdiff_jax.types import Cond, CondShape


def label(shape: CondShape, width: int) -> nn.Module:
    """The label as a vector (the DiT of Peebles & Xie 2023)."""
    return LabelVector(_checked(shape.classes), width)


def label_token(shape: CondShape, width: int) -> nn.Module:
    """The label as one token: it acts through attention alone (Peebles & Xie 2023, §3.2, in-context conditioning)."""
    return LabelToken(_checked(shape.classes), width)


class LabelVector(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, cond: Cond) -> Context:
        return Context(vector=_row(self.classes, self.width, cond))


class LabelToken(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, cond: Cond) -> Context:
        return Context(tokens=_row(self.classes, self.width, cond)[:, None, :])


def _row(classes: int, width: int, cond: Cond) -> Float[Array, "b width"]:
    if cond.label is None:
        raise ValueError("the network is conditioned on a class label, but cond.label is None (the null label is -1)")
    index = jnp.where(cond.label < 0, classes, cond.label)
    return nn.Embed(classes + 1, width, embedding_init=embedding_init, name="table")(index)


def _checked(classes: int) -> int:
    if classes < 1:
        raise ValueError(f"conditioning on a label needs classes ≥ 1, got {classes}")
    return classes
