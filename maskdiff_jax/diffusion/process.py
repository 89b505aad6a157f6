"""Forward processes ``x_t = alpha(t) x + sigma(t) eps`` with t = 0 data and t = 1 noise, and their coefficients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from maskdiff_jax.types import Array, Coeffs, Process

LOG_SNR_LIMIT = 15.0  # |log SNR| at which the continuous processes end: sigma or alpha is then 5.5e-4


def coeffs(process: Process, t: ArrayLike) -> Coeffs:
    """alpha, sigma and their exact t-derivatives at ``t``, each of its shape, float32."""
    t = jnp.asarray(t, jnp.float32)
    one = jnp.ones_like(t)
    alpha, dalpha = jax.jvp(process.alpha, (t,), (one,))
    sigma, dsigma = jax.jvp(process.sigma, (t,), (one,))
    return Coeffs(alpha, sigma, dalpha, dsigma)


def log_snr(c: Coeffs) -> Array:
    """log(alpha² / sigma²), natural logarithm; +inf at sigma = 0, -inf at alpha = 0."""
    return 2 * (jnp.log(c.alpha) - jnp.log(c.sigma))


def cosine(log_snr_limit: float = LOG_SNR_LIMIT) -> Process:
    """Variance preserving, alpha = cos(πt/2), sigma = sin(πt/2) (Salimans & Ho 2022).

    Training and sampling use the t whose |log SNR| is at most ``log_snr_limit``. Raises ValueError unless it is > 0.
    """
    t_end = 2 / math.pi * math.atan(math.exp(-_positive("log_snr_limit", log_snr_limit) / 2))
    return Process(
        alpha=lambda t: jnp.sin(jnp.pi / 2 * (1 - t)),  # as a sine: exact to rounding near alpha = 0
        sigma=lambda t: jnp.sin(jnp.pi / 2 * t),
        t_of_log_snr=lambda lam: 2 / jnp.pi * jnp.arctan(jnp.exp(-lam / 2)),
        norm=jnp.hypot,
        t_min=t_end,
        t_max=1 - t_end,
    )


def linear_flow(log_snr_limit: float = LOG_SNR_LIMIT) -> Process:
    """The straight path alpha = 1 - t, sigma = t of flow matching (Liu et al. 2022; Lipman et al. 2022).

    Training and sampling use the t whose |log SNR| is at most ``log_snr_limit``. Raises ValueError unless it is > 0.
    """
    t_end = 1 / (1 + math.exp(_positive("log_snr_limit", log_snr_limit) / 2))
    return Process(
        alpha=lambda t: 1 - t,
        sigma=lambda t: t,
        t_of_log_snr=lambda lam: jax.nn.sigmoid(-lam / 2),
        norm=jnp.add,
        t_min=t_end,
        t_max=1 - t_end,
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Variance exploding, alpha = 1, sigma = sigma_max·t (Karras et al. 2022, where time *is* sigma).

    t runs from sigma_min/sigma_max to 1. Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"edm needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    return Process(
        alpha=jnp.ones_like,
        sigma=lambda t: sigma_max * t,
        t_of_log_snr=lambda lam: jnp.exp(-lam / 2) / sigma_max,
        norm=lambda alpha, sigma: alpha,
        t_min=sigma_min / sigma_max,
        t_max=1.0,
    )


def ddpm_linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Process:
    """The DDPM table with betas linear from ``beta_min`` to ``beta_max`` (Ho et al. 2020).

    The paper's betas, the defaults, are meant for 1000 steps.
    Raises ValueError unless 0 < beta_min <= beta_max < 1 and steps >= 1.
    """
    if not 0 < beta_min <= beta_max < 1 or steps < 1:
        raise ValueError(
            f"ddpm_linear needs 0 < beta_min <= beta_max < 1 and steps >= 1, got {beta_min}, {beta_max}, {steps}"
        )
    return _table(np.linspace(beta_min, beta_max, steps))


def ddpm_cosine(steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Process:
    """The improved-DDPM table: abar ∝ cos²((u + s)/(1 + s)·π/2), betas capped at ``beta_max``.

    Nichol & Dhariwal 2021, eq. 17.     Raises ValueError unless steps >= 1, s >= 0 and 0 < beta_max < 1.
    """
    if steps < 1 or s < 0 or not 0 < beta_max < 1:
        raise ValueError(f"ddpm_cosine needs steps >= 1, s >= 0 and 0 < beta_max < 1, got {steps}, {s}, {beta_max}")
    abar = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
    return _table(np.minimum(1 - abar[1:] / abar[:-1], beta_max))


def _table(betas: np.ndarray) -> Process:
    """A discrete process: table index i is t = (i + 1)/T, alpha(0) = 1, log abar is linear in between."""
    steps = len(betas)
    grid = np.arange(steps + 1, dtype=np.float32) / steps
    log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))]).astype(np.float32)

    def interpolate(t: Array) -> Array:
        return jnp.interp(t, grid, log_abar)

    return Process(
        alpha=lambda t: jnp.exp(interpolate(t) / 2),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(interpolate(t))),
        t_of_log_snr=lambda lam: jnp.interp(jax.nn.softplus(-lam), -log_abar, grid),  # -log abar = softplus(-log SNR)
        norm=jnp.hypot,
        t_min=1 / steps,
        t_max=1.0,
        steps=steps,
    )


def shift(process: Process, scale: float) -> Process:
    """The process with log SNR lowered by 2·log(scale), in its own normalisation; scale = 1 changes nothing.

    For images of side s' with a schedule tuned at side s, scale = s'/s keeps the noise visible at the larger size. On
    linear_flow it is t' = scale·t / (1 + (scale - 1)·t); on a VP process abar' = abar / (abar + scale²(1 - abar))
    (Hoogeboom et al. 2023; Esser et al. 2024). Raises ValueError unless scale > 0.
    """
    scale = _positive("shift scale", scale)

    def rescaled(numerator: Array, alpha: Array, sigma: Array) -> Array:
        return numerator / process.norm(alpha, scale * sigma)

    return process._replace(
        alpha=lambda t: rescaled(process.alpha(t), process.alpha(t), process.sigma(t)),
        sigma=lambda t: rescaled(scale * process.sigma(t), process.alpha(t), process.sigma(t)),
        t_of_log_snr=lambda lam: process.t_of_log_snr(lam + 2 * math.log(scale)),
    )


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")
    return value


PROCESSES = {
    "cosine": cosine,
    "linear_flow": linear_flow,
    "edm": edm,
    "ddpm_linear": ddpm_linear,
    "ddpm_cosine": ddpm_cosine,
}
