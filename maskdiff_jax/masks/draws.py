"""What the draws of every mask share: a valid ratio, an exact count, a random order."""

import jax
import jax.numpy as jnp

from maskdiff_jax.types import Array, Key


def check_ratio(ratio: float) -> None:
    """Raises ValueError unless ``ratio``, the fraction masked, is in [0, 1)."""
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio={ratio!r}: the fraction masked must be at least 0 and below 1")


def kept_count(ratio: float, n: int) -> int:
    """n - int(ratio·n): how many of ``n`` units stay when ``ratio`` of them is masked, exactly and statically.

    A ratio is meant as the decimal that was written, but 0.29·100 is 28.999999999999996 in binary. So the product is
    taken as whole when it is within 1e-6 of the next integer: far above the rounding error for any n, far below the
    step of any ratio that is written with up to six decimals. 0.9 of 256 (230.4) still masks 230.

    Raises ValueError where no unit is left.
    """
    kept = n - int(ratio * n + 1e-6)
    if kept < 1:
        raise ValueError(f"ratio={ratio!r} leaves none of {n} units: at least 1 must stay")
    return kept


def random_order(key: Key, n: int) -> Array:
    """A uniform permutation of 0..n-1, int32 [n], by one stable sort of random bits.

    ``order[:k]`` is k of n without replacement; ``order < k`` is the mask of k of n, with exactly k true however the
    bits tie. A tie (2⁻³² for each pair) merely puts the lower number first, so the second round of sorting that
    `jax.random.permutation` spends on ties is left out.
    """
    return jnp.argsort(jax.random.bits(key, (n,)))
