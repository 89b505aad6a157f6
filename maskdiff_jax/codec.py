"""Codecs: what stands between images and the space in which diffusion happens."""

from maskdiff_jax.types import Codec


def identity() -> Codec:
    """Diffusion on the pixels themselves: both directions return their input; there are no parameters."""
    return Codec(encode=lambda params, x, key: x, decode=lambda params, z: z)


CODECS = {"identity": identity}
