"""What a random mask does to data and to gradients, in closed form. eta is the fraction masked.

Zhao et al. 2026 (arXiv 2602.02699) give the covariance and its attenuation; the block-diagonal case, the gradient noise
and the matched batch are derived here. A mask on the loss alone leaves the expected gradient as it is, so every effect
of it must come through `mask_variance`; `noise_matched_batch` is the dense control that decides whether it does.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from maskdiff_jax.masks.draws import check_ratio, kept_count
from maskdiff_jax.masks.supervision import NORMALISATIONS


def masked_covariance(
    cov: Float[Array, "d d"], ratio: float, groups: Int[Array, "d"] | None = None
) -> Float[Array, "d d"]:
    """Covariance of m⊙x for centred x with covariance Σ and m ~ Bernoulli(1 - eta): (1-eta)²Σ + eta(1-eta)D.

    D = diag Σ for a mask per element. With ``groups``, elements of equal number share one draw (the channels of a
    pixel) and D is Σ inside the groups, 0 between them.
    """
    check_ratio(ratio)
    keep = 1 - ratio
    groups = jnp.arange(cov.shape[0]) if groups is None else groups
    shared = jnp.where(groups[:, None] == groups[None, :], cov, 0)
    return keep**2 * cov + ratio * keep * shared


def attenuation(
    cov: Float[Array, "d d"], ratio: float, groups: Int[Array, "d"] | None = None
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """Eigenvalues λ_i of Σ, ascending, and β_i = u_iᵀ Σ̃ u_i / λ_i, how much of each variance the mask leaves.

    β_i = (1-eta)² + eta(1-eta)·u_iᵀDu_i/λ_i: directions of low variance are attenuated less, and may be amplified.
    Σ must be positive definite.
    """
    eigenvalues, u = jnp.linalg.eigh(cov)
    masked = jnp.einsum("ji,jk,ki->i", u, masked_covariance(cov, ratio, groups), u)
    return eigenvalues, masked / eigenvalues


def mean_inverse_count(n: int, ratio: float) -> float:
    """E[1 / max(K, 1)] for K ~ Binomial(n, 1 - eta), by summation in float64."""
    check_ratio(ratio)
    if ratio == 0:
        return 1 / n
    k = np.arange(1, n + 1)
    log_choose = np.cumsum(np.log(n - k + 1) - np.log(k))
    pmf = np.exp(log_choose + k * np.log1p(-ratio) + (n - k) * np.log(ratio))
    return float(ratio**n + np.sum(pmf / k))


def mask_variance(
    grads: Float[Array, "n *rest"], ratio: float, exact: bool = False, normalise: str = "count"
) -> Float[Array, "*rest"]:
    """Variance, over masks, of one image's gradient under `sparse` with these options.

    ``grads[i]`` is the gradient of unit i's loss (the mean over its elements), so the dense gradient is their mean.
    With S² their sample variance (n - 1) and K the number kept:
    exact: S²/K·(1 - K/n); Bernoulli/count: S²·(E[1/max(K, 1)] - 1/n); Bernoulli/expected: eta/((1-eta)n)·mean(g²).
    'none' is 'expected' times the fraction kept, squared.
    """
    check_ratio(ratio)
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise={normalise!r}: choose from {', '.join(NORMALISATIONS)}")
    n = grads.shape[0]
    sample_variance = jnp.sum((grads - grads.mean(0, keepdims=True)) ** 2, 0) / max(n - 1, 1)
    if exact:
        keep = kept_count(ratio, n) / n
        variance = sample_variance / (keep * n) * (1 - keep)
    elif normalise == "count":
        return sample_variance * (mean_inverse_count(n, ratio) - 1 / n)
    else:
        keep = 1 - ratio
        variance = ratio / (keep * n) * jnp.mean(grads**2, 0)
    return variance * keep**2 if normalise == "none" else variance


def noise_matched_batch(batch: float, variance_data: float, variance_mask: float) -> float:
    """B' = B·V_data/(V_data + V_mask): the batch of a dense run whose gradient is as noisy as a sparse run's with B.

    ``variance_data`` is the variance of one image's dense gradient over images (and times and noise), ``variance_mask``
    the mean over images of its variance over masks; both summed over parameters, both measured. The caller rounds.
    Raises ValueError unless batch and variance_data are positive and variance_mask is not negative.
    """
    if not (batch > 0 and variance_data > 0 and variance_mask >= 0):
        raise ValueError(
            "a noise-matched batch needs batch > 0, variance_data > 0 and variance_mask ≥ 0, "
            f"got {batch}, {variance_data} and {variance_mask}"
        )
    return batch * variance_data / (variance_data + variance_mask)
