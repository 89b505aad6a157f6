"""Inception-v3 as the Fréchet Inception Distance uses it: the network of TensorFlow's release of 2015-12-05.

Szegedy et al. 2016 (arXiv 1512.00567) with the details of the released graph: batch norm with ε = 0.001, average pools
that do not count the padding, and a maximum in place of the average in the last block. Layers carry the names of the
published PyTorch port of the weights.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maskdiff_jax.models.extractor import Extractor, from_module

SIDE = 299  # of the images
CLASSES = 1008
POOL = 2048
SPATIAL = 7  # channels of a 17x17 map

# Metrics compare across machines: no TF32, no bfloat16 passes.
_EXACT = jax.lax.Precision.HIGHEST


def inception() -> Extractor:
    """The network on images [b, 299, 299, 3] in [-1, 1], float32 at the highest precision of the device.

    pool [b, 2048]: the global mean before the classifier (FID, KID, precision and recall). logits [b, 1008]: the
    classifier **without its bias**, as the Inception Score is computed. spatial [b, 17·17·7]: the first 7
    channels of the block "mixed_6" (here Mixed_6d), row by row, of which sFID is made (Nash et al. 2021, in the
    evaluation of Dhariwal & Nichol 2021).
    """
    return from_module(Inception(), (SIDE, SIDE, 3), POOL)


class Inception(nn.Module):
    """See `inception`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _"]]:
        x = Unit(32, 3, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Unit(32, 3, padding="VALID", name="Conv2d_2a_3x3")(x)
        x = Unit(64, 3, name="Conv2d_2b_3x3")(x)
        x = Unit(80, 1, name="Conv2d_3b_1x1")(halved(x))
        x = Unit(192, 3, padding="VALID", name="Conv2d_4a_3x3")(x)
        x = BlockA(32, name="Mixed_5b")(halved(x))
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        spatial = x[..., :SPATIAL].reshape(len(x), -1)
        x = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(mean_around, name="Mixed_7b")(x)
        x = BlockE(maximum_around, name="Mixed_7c")(x)
        pool = jnp.mean(x, axis=(1, 2))
        logits = nn.Dense(CLASSES, use_bias=False, precision=_EXACT, name="fc")(pool)
        return {"pool": pool, "logits": logits, "spatial": spatial}


class Moments(nn.Module):
    """Batch norm at inference: (x - mean)·scale / √(var + 0.001) + bias, with stored mean and var."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        init = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
        scale, bias, mean, var = (
            self.param(name, nn.initializers.constant(value), x.shape[-1:]) for name, value in init.items()
        )
        gain = scale * jax.lax.rsqrt(var + 1e-3)
        return x * gain[None, None, None] + (bias - mean * gain)[None, None, None]


class Unit(nn.Module):
    """A convolution without bias, batch norm, ReLU. ``kernel``: a side, or (height, width)."""

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        strides = (self.stride, self.stride)
        x = nn.Conv(self.features, kernel, strides, self.padding, use_bias=False, precision=_EXACT, name="conv")(x)
        return nn.relu(Moments(name="bn")(x))


def tower(x: Float[Array, "b h w c"], name: str, *units: tuple[int, int | tuple[int, int]]) -> Float[Array, "b h w f"]:
    """Units (features, kernel) in a row, named name_1, name_2, ...; inside a module's compact method."""
    for i, (features, kernel) in enumerate(units, 1):
        x = Unit(features, kernel, name=f"{name}_{i}")(x)
    return x


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The maximum of every second 3x3 window, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2))


def mean_around(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of the 3x3 window around each place, of those of its places that are in the image."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def maximum_around(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The maximum of the 3x3 window around each place."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def joined(*branches: Float[Array, "b h w _"]) -> Float[Array, "b h w c"]:
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    """35x35: 1x1, 5x5 and double 3x3 convolutions, and a mean; ``pool``: the features of the last."""

    pool: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        return joined(
            Unit(64, 1, name="branch1x1")(x),
            tower(x, "branch5x5", (48, 1), (64, 5)),
            tower(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            Unit(self.pool, 1, name="branch_pool")(mean_around(x)),
        )


class BlockB(nn.Module):
    """35x35 -> 17x17."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        double = tower(x, "branch3x3dbl", (64, 1), (96, 3))
        return joined(
            Unit(384, 3, 2, "VALID", name="branch3x3")(x),
            Unit(96, 3, 2, "VALID", name="branch3x3dbl_3")(double),
            halved(x),
        )


class BlockC(nn.Module):
    """17x17: 7x7 convolutions as products of 1x7 and 7x1; ``width``: their inner features."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        w, row, column = self.width, (1, 7), (7, 1)
        return joined(
            Unit(192, 1, name="branch1x1")(x),
            tower(x, "branch7x7", (w, 1), (w, row), (192, column)),
            tower(x, "branch7x7dbl", (w, 1), (w, column), (w, row), (w, column), (192, row)),
            Unit(192, 1, name="branch_pool")(mean_around(x)),
        )


class BlockD(nn.Module):
    """17x17 -> 8x8."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        wide = tower(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
        return joined(
            Unit(320, 3, 2, "VALID", name="branch3x3_2")(tower(x, "branch3x3", (192, 1))),
            Unit(192, 3, 2, "VALID", name="branch7x7x3_4")(wide),
            halved(x),
        )


class BlockE(nn.Module):
    """8x8: 3x3 convolutions whose ends are a 1x3 and a 3x1 side by side; ``around`` is the pool before the last."""

    around: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        single = tower(x, "branch3x3", (384, 1))
        double = tower(x, "branch3x3dbl", (448, 1), (384, 3))
        return joined(
            Unit(320, 1, name="branch1x1")(x),
            Unit(384, (1, 3), name="branch3x3_2a")(single),
            Unit(384, (3, 1), name="branch3x3_2b")(single),
            Unit(384, (1, 3), name="branch3x3dbl_3a")(double),
            Unit(384, (3, 1), name="branch3x3dbl_3b")(double),
            Unit(192, 1, name="branch_pool")(self.around(x)),
        )
