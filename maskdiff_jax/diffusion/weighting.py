"""Loss weightings, each stated once in the space where its paper states it; `in_space` carries it to every other.

A configured weighting means the same loss whatever the network predicts. SNR = alpha²/sigma².
"""

import jax
import jax.numpy as jnp

from maskdiff_jax.diffusion import prediction as spaces
from maskdiff_jax.diffusion.prediction import det, prediction
from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.types import Array, Coeffs, Prediction, Process, Times, Weighting

_QUADRATURE = 64_000  # midpoints of the mean in `normalised`; a multiple of the usual table lengths


def snr(c: Coeffs) -> Array:
    """alpha² / sigma²."""
    return jnp.square(c.alpha / c.sigma)


def constant(space: str | Prediction = "eps") -> Weighting:
    """1 on the squared error in ``space`` (a name of `PREDICTIONS` or a function)."""
    return Weighting(prediction(space), lambda c: jnp.ones_like(c.alpha))


def debias() -> Weighting:
    """1/√SNR = sigma/alpha on eps (Yu et al. 2024, "Unmasking Bias in Diffusion Model Training")."""
    return Weighting(spaces.eps(), lambda c: c.sigma / c.alpha)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """(k + SNR)^-gamma on eps (Choi et al. 2022); debias is gamma = 1/2, k = 0. Raises ValueError for one below 0."""
    if gamma < 0 or k < 0:
        raise ValueError(f"p2 needs gamma >= 0 and k >= 0, got {gamma} and {k}")
    return Weighting(spaces.eps(), lambda c: (k + snr(c)) ** -gamma)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x (Hang et al. 2023). Raises ValueError unless gamma > 0."""
    if not gamma > 0:
        raise ValueError(f"min_snr needs gamma > 0, got {gamma}")
    return Weighting(spaces.x(), lambda c: jnp.minimum(snr(c), gamma))


def truncated_snr() -> Weighting:
    """max(SNR, 1) on x (Salimans & Ho 2022): it truncates from below, `min_snr` from above."""
    return Weighting(spaces.x(), lambda c: jnp.maximum(snr(c), 1))


def edm(data_std: float = 0.5) -> Weighting:
    """1 on the preconditioned target: on x (sigma² + data_std²)/(sigma·data_std)² (Karras et al. 2022, table 1)."""
    return constant(spaces.edm(data_std))


def sigmoid(bias: float = 2.0, per_log_snr: bool = True) -> Weighting:
    """sigmoid(bias - log SNR) on eps (Kingma & Gao 2023, with bias 2; Hoogeboom et al. 2024, lower for larger images).

    ``per_log_snr`` multiplies by -d(log SNR)/dt, as those papers do, so that the loss does not depend on the schedule;
    False leaves the plain factor.
    """

    def weight(c: Coeffs) -> Array:
        density = 2 * (c.dsigma / c.sigma - c.dalpha / c.alpha) if per_log_snr else 1
        return density * jax.nn.sigmoid(bias - log_snr(c))

    return Weighting(spaces.eps(), weight)


WEIGHTINGS = {
    "constant": constant,
    "debias": debias,
    "p2": p2,
    "min_snr": min_snr,
    "truncated_snr": truncated_snr,
    "edm": edm,
    "sigmoid": sigmoid,
}


def in_space(weighting: Weighting, space: Prediction, c: Coeffs) -> Array:
    """The weight [b] on the squared error of a network that predicts ``space``."""
    return weighting.weight(c) * jnp.square(det(weighting.space, c) / det(space, c))


def clipped(weighting: Weighting, max_weight: float) -> Weighting:
    """The weighting capped at ``max_weight`` in its own space, for schedules that end near SNR = 0.

    Not part of the papers. Raises ValueError unless max_weight > 0.
    """
    if not max_weight > 0:
        raise ValueError(f"max_weight must be > 0, got {max_weight}")
    return weighting._replace(weight=lambda c: jnp.minimum(weighting.weight(c), max_weight))


def normalised(weighting: Weighting, process: Process, times: Times) -> Weighting:
    """The weighting divided by the mean of its v-space weight over ``times``, so that weightings share a learning rate.

    v is the space where that mean is finite for every listed weighting on VP, flow and VE processes; the constant is
    the same whatever the network predicts. Not part of the papers.
    """
    u = (jnp.arange(_QUADRATURE) + 0.5) / _QUADRATURE
    t, weight = times.quantile(process, u)
    mean = float(jnp.mean(weight * in_space(weighting, spaces.v(), coeffs(process, t))))
    return weighting._replace(weight=lambda c: weighting.weight(c) / mean)
