"""Which tokens enter the network.

A member is one function of one image's key, ``draw(key, grid) -> ids[k]`` (sorted, distinct, k static), with the true
inclusion probability of each token, and one line in the table.

Inclusion is the same for every token under `all_tokens`, `patch` and `block`: the plain mean of a loss over the visible
tokens is then an unbiased estimate of the mean over all. It is not under `crop`, which favours the centre: the plain
mean, as in MaskDM, is biased towards it, and ``loss.weight_by_inclusion`` of the config undoes that.
"""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp

from maskdiff_jax.masks.draws import check_ratio, kept_count, random_order
from maskdiff_jax.types import Array, Key, Visibility

Grid = tuple[int, int]


def _visibility(draw: Callable[[Key, Grid], Array], inclusion: Callable[[Grid], Array]) -> Visibility:
    """The Visibility of a per-image draw."""
    return Visibility(lambda keys, grid: jax.vmap(lambda key: draw(key, grid))(keys), inclusion)


def all_tokens() -> Visibility:
    """Every token, in order."""
    every = _visibility(lambda _, grid: jnp.arange(prod(grid)), lambda grid: jnp.ones(prod(grid)))
    return every._replace(hides=False)


def patch(ratio: float) -> Visibility:
    """Uniform over tokens, without replacement; int(ratio·n) of the n tokens are masked in every image.

    Inclusion is k/n for all. Raises ValueError unless 0 ≤ ratio < 1 and, when sampled, at least one token is left.
    Lei et al. 2023 (MaskDM), "patch-wise" masking.
    """
    check_ratio(ratio)

    def draw(key: Key, grid: Grid) -> Array:
        n = prod(grid)
        return jnp.sort(random_order(key, n)[: kept_count(ratio, n)])

    def inclusion(grid: Grid) -> Array:
        n = prod(grid)
        return jnp.full(n, kept_count(ratio, n) / n)

    return _visibility(draw, inclusion)


def block(ratio: float, block: int) -> Visibility:
    """Uniform over the aligned ``block`` x ``block`` blocks of tokens, which are visible or masked as a whole.

    int(ratio·n)//block² of the n/block² blocks are masked in every image; inclusion is kept blocks / all blocks for
    every token. A block of 1 is `patch`. Raises ValueError unless 0 ≤ ratio < 1 and block ≥ 1 and, when sampled or
    asked for inclusion, the block divides both sides of the grid and at least one block is left.
    Lei et al. 2023 (MaskDM), "block" in its code.
    """
    check_ratio(ratio)
    if block < 1:
        raise ValueError(f"block={block!r}: a side of at least 1 token")

    def count(grid: Grid) -> tuple[int, int]:
        """(visible, all) blocks."""
        rows, columns = grid
        if rows % block or columns % block:
            raise ValueError(f"block={block} does not divide a grid of {rows}×{columns} tokens")
        n, size = prod(grid), block**2
        masked = (n - kept_count(ratio, n)) // size
        return n // size - masked, n // size

    def draw(key: Key, grid: Grid) -> Array:
        kept, blocks = count(grid)
        across, columns = grid[1] // block, grid[1]
        chosen = random_order(key, blocks)[:kept]
        first = chosen // across * block * columns + chosen % across * block
        return jnp.sort((first[:, None] + _window(block, columns)[None, :]).reshape(-1))

    def inclusion(grid: Grid) -> Array:
        kept, blocks = count(grid)
        return jnp.full(prod(grid), kept / blocks)

    return _visibility(draw, inclusion)


def crop(side: int) -> Visibility:
    """One ``side`` x ``side`` window of tokens is visible, uniform over all places where it fits.

    Inclusion is the share of windows that cover a token: on a grid of 16x16 and a side of 5, 1/144 in a corner and
    25/144 in the centre. Raises ValueError unless side ≥ 1 and, when sampled or asked for inclusion, the window fits
    the grid. Lei et al. 2023 (MaskDM), "crop" in its code.
    """
    if side < 1:
        raise ValueError(f"side={side!r}: a side of at least 1 token")

    def places(grid: Grid) -> tuple[int, int]:
        """How many rows and columns a window can start in."""
        rows, columns = grid
        if side > min(grid):
            raise ValueError(f"side={side} is more than the shorter side of a grid of {rows}×{columns} tokens")
        return rows - side + 1, columns - side + 1

    def draw(key: Key, grid: Grid) -> Array:
        tops, lefts = places(grid)
        place = jax.random.randint(key, (), 0, tops * lefts)
        return place // lefts * grid[1] + place % lefts + _window(side, grid[1])

    def inclusion(grid: Grid) -> Array:
        down, across = (_covering(length, side) for length in grid)
        return (down[:, None] * across[None, :]).reshape(-1) / prod(places(grid))

    return _visibility(draw, inclusion)


def _window(side: int, columns: int) -> Array:
    """Ids [side²] of the window of tokens in the upper left corner of a grid of ``columns``, sorted."""
    steps = jnp.arange(side)
    return (steps[:, None] * columns + steps[None, :]).reshape(-1)


def _covering(length: int, side: int) -> Array:
    """How many windows of ``side`` on a line cover each of its ``length`` places, [length]."""
    at = jnp.arange(length)
    return jnp.minimum(at, length - side) - jnp.maximum(at - side + 1, 0) + 1


VISIBILITIES = {"all": all_tokens, "patch": patch, "block": block, "crop": crop}
