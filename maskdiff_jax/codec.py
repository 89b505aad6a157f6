"""Codecs: what stands between images and the space in which diffusion happens."""

import jax.numpy as jnp

from maskdiff_jax import rng
from maskdiff_jax.types import Array, Codec, Key, Params


def identity() -> Codec:
    """Diffusion on the pixels themselves: both directions return their input; there are no parameters."""
    return Codec(encode=lambda params, x, key: x, decode=lambda params, z: z)


def haar() -> Codec:
    """One level of Haar wavelets: x [b, h, w, c] in [-1, 1] <-> [b, h/2, w/2, 4c] in [-1, 1]; no parameters.

    Of the pixels a b over c d of a square, the c channels of the approximation (a + b + c + d)/4 come first, then those
    of the details (a + b - c - d)/4, (a - b + c - d)/4 and (a - b - c + d)/4: rows, columns, diagonal. The map is half
    an orthogonal one, so a squared error in the pixels is 4 times that in the coefficients.

    Lei et al. 2023 (MaskDM-L), in whose code images lie in [0, 1]: these are the orthonormal details of such an image,
    not rescaled, and its approximation, in [0, 2] there, rescaled to [-1, 1] (their code has 2·approximation - 1, in
    [-1, 3]). Raises ValueError for odd sides and, when decoding, unless 4 divides the channels.
    """

    def shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        h, w, c = image_shape
        if h % 2 or w % 2:
            raise ValueError(f"codec 'haar' halves even sides, and an image of {h}×{w} has an odd one")
        return h // 2, w // 2, 4 * c

    def encode(params: Params, x: Array, key: Key) -> Array:
        _, h, w, c = x.shape
        shape((h, w, c))
        top, bottom = x[:, ::2], x[:, 1::2]
        halves = (top + bottom, top - bottom)
        bands = [f(half[:, :, ::2], half[:, :, 1::2]) for f in (jnp.add, jnp.subtract) for half in halves]
        return jnp.concatenate(bands, axis=-1) / 4

    def decode(params: Params, z: Array) -> Array:
        b, h, w, channels = z.shape
        if channels % 4:
            raise ValueError(f"codec 'haar' decodes 4 bands of channels, and {channels} channels do not divide by 4")
        sums, rows, columns, diagonal = jnp.split(z, 4, axis=-1)
        left, right = (sums + columns, rows + diagonal), (sums - columns, rows - diagonal)
        top, bottom = (jnp.stack([f(*left), f(*right)], axis=3) for f in (jnp.add, jnp.subtract))
        return jnp.stack([top, bottom], axis=2).reshape(b, 2 * h, 2 * w, channels // 4)

    return Codec(encode, decode, shape)


def latents(scaling: float = 1.0, shift: float = 0.0) -> Codec:
    """Stored latents [b, h, w, 2c], c channels of means, then c of standard deviations <-> (z - shift)·scaling.

    These are [b, h, w, c]. ``encode`` draws z from the Gaussian, with one key per image (Rombach et al. 2022, arXiv
    2112.10752); ``decode`` returns z, of which an autoencoder makes an image. The codec that has the autoencoder inside
    is `models.autoencoder.codec`.
    Raises ValueError where 2 does not divide the channels.
    """

    def shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        h, w, channels = image_shape
        if channels % 2:
            raise ValueError(f"latents are means and standard deviations, which {channels} channels do not divide into")
        return h, w, channels // 2

    def encode(params: Params, x: Array, key: Key) -> Array:
        _, rows, columns, channels = x.shape
        h, w, c = shape((rows, columns, channels))
        return (x[..., :c] + x[..., c:] * rng.normal(key, (h, w, c)) - shift) * scaling

    def decode(params: Params, z: Array) -> Array:
        return z / scaling + shift

    return Codec(encode, decode, shape)


CODECS = {"identity": identity, "haar": haar}
