"""Which tokens enter the network.

A member is one function of one image's key, ``draw(key, grid) -> ids[k]`` (sorted, distinct, k static), with the true
inclusion probability of each token, and one line in the table.
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


VISIBILITIES = {"all": all_tokens, "patch": patch}
