"""Which output elements carry loss. The network sees its whole input either way.

``shape`` is that of one image's answered units: [k, p, p, c] of a token model, [h, w, c] otherwise. The loss of an
image is ``normalise(mask, shape) · Σ mask·error²``; dense gives the mean over elements.
"""

from math import prod

import jax
import jax.numpy as jnp

from maskdiff_jax.masks.draws import check_ratio, kept_count, random_order
from maskdiff_jax.types import Array, Key, Shape, Supervision

UNITS = ("element", "pixel", "patch")
NORMALISATIONS = ("count", "expected", "none")


def dense() -> Supervision:
    """Every element carries loss."""

    def sample(keys: Key, shape: Shape) -> Array:
        return jnp.ones((keys.shape[0],) + (1,) * len(shape), bool)

    def normalise(mask: Array, shape: Shape) -> Array:
        return jnp.full(mask.shape[0], 1 / prod(shape))

    return Supervision(sample, lambda shape: 1.0, normalise)


def sparse(
    ratio: float,
    unit: str = "element",
    exact: bool = False,
    normalise: str = "count",
    patch: int | None = None,
) -> Supervision:
    """A fraction ``ratio`` of the units, drawn anew for each image and step, carries no loss; 0 is exactly `dense`.

    Sparsely Supervised Diffusion (Zhao et al. 2026, arXiv 2602.02699): m ~ Bernoulli(1 - ratio) multiplies the
    regression error and nothing else. Unit, exact count, normalisation and empty draws are not specified by the paper;
    `maskdiff_jax.masks.mask_variance` states the gradient noise of each choice.

    Args:
      ratio: fraction masked, in [0, 1).
      unit: what is masked together. 'element'; 'pixel', all its channels; or 'patch', a whole token, or for a network
        without tokens a square of side ``patch``.
      exact: mask int(ratio·N) of the N units in every image, rather than each unit independently.
      normalise: 'count' divides by the number kept in the image; an empty Bernoulli draw then keeps one uniform unit
        (unbiased, by symmetry). 'expected' divides by the expected number kept; an empty draw stays empty. 'none' takes
        the mean over all elements, kept or not: biased, it scales the loss by the fraction kept.
      patch: side of a patch, for unit='patch' on a network without tokens.

    Raises ValueError for any other value, and when sampled where ``patch`` does not fit the shape.
    """
    check_ratio(ratio)
    for name, value, choices in (("unit", unit, UNITS), ("normalise", normalise, NORMALISATIONS)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose from {', '.join(choices)}")
    if patch is not None and (unit != "patch" or patch < 1):
        raise ValueError(f"patch={patch!r}: a side of at least 1, and only with unit='patch' (unit={unit!r})")
    if ratio == 0:
        return dense()
    keep = 1 - ratio

    def sample(keys: Key, shape: Shape) -> Array:
        units = _units(shape, unit, patch)
        n = prod(units)

        def draw(key: Key) -> Array:
            if exact:
                kept = random_order(key, n) < kept_count(ratio, n)
            else:
                u = jax.random.uniform(key, (n,))
                kept = u < keep
                if normalise == "count":  # the least u is kept already unless the draw is empty, and then it is uniform
                    kept |= jnp.arange(n) == jnp.argmin(u)
            return kept.reshape(units)

        mask = jax.vmap(draw)(keys)
        if unit == "patch" and len(shape) == 3:
            side = shape[0] // units[0]
            mask = mask.repeat(side, axis=1).repeat(side, axis=2)
        return mask

    def inclusion(shape: Shape) -> float:
        n = prod(_units(shape, unit, patch))
        if exact:
            return kept_count(ratio, n) / n
        return keep + ratio**n / n if normalise == "count" else keep

    def factor(mask: Array, shape: Shape) -> Array:
        if normalise == "count":
            shared = prod(shape) / prod(mask.shape[1:])  # elements that one entry of the mask stands for
            return 1 / (shared * mask.sum(tuple(range(1, mask.ndim))))
        return jnp.full(mask.shape[0], 1 / (prod(shape) * (inclusion(shape) if normalise == "expected" else 1)))

    return Supervision(sample, inclusion, factor)


def _units(shape: Shape, unit: str, patch: int | None) -> Shape:
    """The array of units of one image, with 1 where a unit is shared along an axis of ``shape``."""
    if unit == "element":
        return shape
    if unit == "pixel":
        return (*shape[:-1], 1)
    if len(shape) == 4:
        if patch not in (None, shape[1]):
            raise ValueError(
                f"patch={patch}: the patch of a token model is its token, of side {shape[1]}; leave it out"
            )
        return (shape[0], 1, 1, 1)
    h, w, _ = shape
    if patch is None:
        raise ValueError("unit='patch' on a network without tokens needs patch=, the side of a patch")
    if h % patch or w % patch:
        raise ValueError(f"patch={patch} does not divide an image of {h}×{w}")
    return (h // patch, w // patch, 1)


SUPERVISIONS = {"dense": dense, "sparse": sparse}
