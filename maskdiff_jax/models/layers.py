"""The layers that backbones share.

``dtype`` is the dtype of the arithmetic, never of the parameters: those are float32. Norms, softmax and the level
embedding compute in float32 whatever the dtype.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from maskdiff_jax.models import kernels
from maskdiff_jax.types import Output

DTYPES = ("float32", "bfloat16")

embedding_init = nn.initializers.normal(0.02)
zeros = nn.initializers.zeros


def check_dtype(dtype: str) -> None:
    """Raise ValueError, with the choices, unless ``dtype`` names an arithmetic that the backbones know."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose from {', '.join(DTYPES)}")


def linear(
    x: Float[Array, "*b i"],
    features: int,
    *,
    name: str,
    dtype: DTypeLike = "float32",
    bias: bool = True,
    kernel_init: Initializer = nn.initializers.xavier_uniform(),  # noqa: B008  (a pure function)
) -> Float[Array, "*b o"]:
    """A dense layer over the last axis, inside a module's compact method, as one matrix product over all rows.

    On a CPU, XLA differentiates a DiT in this form 1.2 times as fast as with batched products; elsewhere the reshape is
    free.
    """
    dense = nn.Dense(features, use_bias=bias, dtype=dtype, kernel_init=kernel_init, name=name)
    rows = dense(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], features)


# How the rates of `sinusoid` are counted: its ``shift``, by who counts so.
LEVEL_FEATURES = {"dit": 0, "diffusers": 1}


def sinusoid(x: Float[Array, " b"], width: int, period: float = 10_000.0, shift: int = 0) -> Float[Array, "b width"]:
    """Features [cos(x·w_i), sin(x·w_i)] with w_i = period^(-i / (width/2 - shift)), i < width/2 (width even), float32.

    Vaswani et al. 2017, with the cosines first as in the published DiT. With a ``shift`` of 1 the last rate is
    1/period, as in the code of Ho et al. 2020.
    """
    rates = (period ** -(np.arange(width // 2) / (width // 2 - shift))).astype(np.float32)
    angles = x.astype(jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class LevelEmbedding(nn.Module):
    """The noise level [b] as a vector [b, width]: `sinusoid` of ``scale``·level, then a two-layer SiLU MLP, float32.

    ``vector``, that of the other conditions where they have one, is added.

    The features tell apart arguments that differ by about 1. So ``scale`` is 1000 for a level in [0, 1] and 1 for a
    table index 0..T-1. ``shift`` is that of `sinusoid`.
    """

    width: int
    scale: float = 1000.0
    features: int = 256
    shift: int = 0

    @nn.compact
    def __call__(
        self, level: Float[Array, " b"], vector: Float[Array, "b width"] | None = None
    ) -> Float[Array, "b width"]:
        h = sinusoid(self.scale * level, self.features, shift=self.shift)
        h = linear(h, self.width, kernel_init=embedding_init, name="hidden")
        h = linear(nn.silu(h), self.width, kernel_init=embedding_init, name="out")
        return h if vector is None else h + vector


def prepend(
    tokens: Float[Array, "b m w"] | None, mask: Bool[Array, "b m"] | None, x: Float[Array, "b k w"]
) -> tuple[Float[Array, "b mk w"], Bool[Array, "b mk"] | None]:
    """Condition tokens [b, m, w] before the image's, and the mask of all where the conditions have one."""
    if tokens is None:
        return x, None
    joint = jnp.concatenate([tokens.astype(x.dtype), x], axis=1)
    return joint, None if mask is None else jnp.concatenate([mask, jnp.ones(x.shape[:2], bool)], axis=1)


def attend(
    qkv: Float[Array, "b k w3"],
    heads: int,
    mask: Bool[Array, "b k"] | None = None,
    bias: Float[Array, "#b heads k k"] | None = None,
    kernel: str = "auto",
) -> Float[Array, "b k w"]:
    """Self-attention of ``heads`` heads from the queries, keys and values of the tokens, each a third of ``qkv``.

    ``mask`` is False at tokens that nobody attends to; ``bias`` is added to the logits. The softmax is float32;
    ``kernel`` is that of `kernels.attend`.

    One transposition takes the heads apart: a training step on a CPU is faster so than with one each for queries, keys
    and values (benchmarks/LOG.md).
    """
    b, k, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    query, key, value = qkv.reshape(b, k, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # [3, b, heads, k, d]
    out = kernels.attend(query, key, value, mask, bias, kernel)
    return out.transpose(0, 2, 1, 3).reshape(b, k, width)


class Attention(nn.Module):
    """Self-attention among the tokens of an image, with one fused projection to queries, keys and values.

    ``mask`` is False at tokens that nobody attends to; None: there are none.
    """

    heads: int
    dtype: DTypeLike = "float32"
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b k w"], mask: Bool[Array, "b k"] | None = None) -> Float[Array, "b k w"]:
        qkv = linear(x, 3 * x.shape[-1], dtype=self.dtype, name="qkv")
        h = attend(qkv, self.heads, mask, kernel=self.kernel)
        return linear(h, x.shape[-1], dtype=self.dtype, name="out")


class Mlp(nn.Module):
    """Two layers with a GELU (tanh approximation) between; ``hidden`` units."""

    hidden: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
        h = linear(x, self.hidden, dtype=self.dtype, name="hidden")
        return linear(nn.gelu(h, approximate=True), x.shape[-1], dtype=self.dtype, name="out")


class Modulation(nn.Module):
    """``n`` vectors [b, 1, w] of shifts, scales or gates from a condition vector [b, w]: SiLU and one fused projection.

    Initialised at 0 (adaLN-zero, Peebles & Xie 2023, §3.2).
    """

    n: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, c: Float[Array, "b w"]) -> list[Float[Array, "b 1 w"]]:
        out = linear(nn.silu(c), self.n * c.shape[-1], dtype=self.dtype, kernel_init=zeros, name="linear")
        return jnp.split(out[:, None, :], self.n, axis=-1)


class ModulatedNorm(nn.Module):
    """Layer norm without parameters of its own, then ``·(1 + scale) + shift``; the norm in float32."""

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k w"], shift: Float[Array, "b 1 w"], scale: Float[Array, "b 1 w"]
    ) -> Float[Array, "b k w"]:
        x = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32)(x)
        return (x * (1 + scale) + shift).astype(self.dtype)


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer to ``features``, initialised at 0; float32."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b k w"], c: Float[Array, "b w"]) -> Float[Array, "b k f"]:
        shift, scale = Modulation(2, name="modulation")(c)
        x = ModulatedNorm(name="norm")(x, shift, scale)
        return linear(x, self.features, kernel_init=zeros, name="linear")


def with_variance(out: Float[Array, "*b c"], learned_variance: bool, ids: Int[Array, "b k"] | None = None) -> Output:
    """A network's last layer as its answer: with a learned variance the second half of the channels is its head v.

    ``variance`` = (v + 1) / 2 clipped to [0, 1].
    """
    if not learned_variance:
        return Output(out, ids)
    prediction, v = jnp.split(out, 2, axis=-1)
    return Output(prediction, ids, variance=jnp.clip((v + 1) / 2, 0, 1))


def token_answer(
    out: Float[Array, "b k f"], patch: int, learned_variance: bool, ids: Int[Array, "b k"] | None = None
) -> Output:
    """The last layer of a transformer, p·p·c features a token, as patches [b, k, p, p, c]; see `with_variance`."""
    b, k, _ = out.shape
    return with_variance(out.reshape(b, k, patch, patch, -1), learned_variance, ids)
