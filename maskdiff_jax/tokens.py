"""Images as tokens: cut into patches, keep some, put them back; token segments; and fixed positions.

A token grid is counted row by row: token i is at (i // columns, i % columns).
"""

import jax.numpy as jnp
import numpy as np

from maskdiff_jax.types import Array, Segments, Tokens


def patchify(x: Array, patch: int) -> Array:
    """[b, h, w, c] -> [b, n, patch, patch, c], n = (h / patch)·(w / patch).

    Raises ValueError where the patch does not divide the image.
    """
    b, h, w, c = x.shape
    if h % patch or w % patch:
        raise ValueError(f"an image of {h}×{w} does not divide into patches of {patch}")
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.swapaxes(2, 3).reshape(b, -1, patch, patch, c)


def unpatchify(tokens: Array, grid: tuple[int, int]) -> Array:
    """[b, n, p, p, c] -> [b, rows·p, columns·p, c]: the inverse of `patchify`."""
    b, _, p, _, c = tokens.shape
    rows, columns = grid
    return tokens.reshape(b, rows, columns, p, p, c).swapaxes(2, 3).reshape(b, rows * p, columns * p, c)


def gather(tokens: Array, ids: Array) -> Array:
    """The tokens [b, k, ...] of [b, n, ...] that ``ids`` [b, k] names."""
    return jnp.take_along_axis(tokens, ids.reshape(ids.shape + (1,) * (tokens.ndim - 2)), axis=1)


def scatter(tokens: Array, ids: Array, n: int, fill: float = 0.0) -> Array:
    """[b, k, ...] -> [b, n, ...]: each token at its place, ``fill`` elsewhere; `gather` takes them out again."""
    b = tokens.shape[0]
    out = jnp.full((b, n, *tokens.shape[2:]), fill, tokens.dtype)
    return out.at[jnp.arange(b)[:, None], ids].set(tokens)


def segments(tokens: Segments) -> tuple[Tokens, ...]:
    """The token grids of a network, also where it is one."""
    return (tokens,) if isinstance(tokens, Tokens) else tokens


def cut(image: Array, tokens: Segments) -> tuple[Array, ...]:
    """An image [b, h, w, c] as the patches [b, n, p, p, c] of each segment."""
    return tuple(patchify(image[..., slice(*(s.channels or (None,)))], s.patch) for s in segments(tokens))


def assemble(units: Array | tuple[Array, ...], tokens: Segments) -> Array:
    """The patches of all tokens, [b, n, p, p, c] or a tuple of them for segments, as an image: the inverse of `cut`."""
    parts = units if isinstance(units, tuple) else (units,)
    images = [unpatchify(part, s.grid) for part, s in zip(parts, segments(tokens), strict=True)]
    return jnp.concatenate(images, axis=-1)


def sincos_2d(
    width: int, grid: tuple[int, int], period: float = 10_000.0, trained: tuple[int, int] | None = None
) -> np.ndarray:
    """Fixed 2-D sine-cosine positions [n, width], float32 (Vaswani et al. 2017, each half of the width for one axis).

    The first half encodes the column, the second the row (the order of the published DiT), each as [sin, cos] of
    width/4 frequencies. ``trained``: a grid whose positions are resampled at the centres of this one's patches, so that
    a finer grid stays inside the range that was trained; None counts 0, 1, 2, …, beyond it where the grid is larger.
    Raises ValueError where ``width`` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width divisible by 4, got {width}")
    rates = period ** -(np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(*map(_places, grid, trained or grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in (columns, rows)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def _places(n: int, trained: int) -> np.ndarray:
    """Where the centres of n cells lie in units of ``trained`` cells; 0..n-1 where the two are equal."""
    return (np.arange(n) + 0.5) * (trained / n) - 0.5
