"""What a network predicts: one of six linear combinations ``c_x·x + c_eps·eps``, and the only converter between them.

With out = c_x·x + c_eps·eps and x_t = alpha·x + sigma·eps, the determinant det = alpha·c_eps - sigma·c_x inverts the
pair: x = (c_eps·x_t - sigma·out)/det and eps = (alpha·out - c_x·x_t)/det. An error in `out` is -det/sigma times the
error that it makes in x, so a squared error in space A is (det_A/det_B)² times the one in space B.
"""

import jax.numpy as jnp

from maskdiff_jax.types import Array, Coeffs, Prediction


def x() -> Prediction:
    """The clean image."""
    return lambda c: (jnp.ones_like(c.alpha), jnp.zeros_like(c.alpha))


def eps() -> Prediction:
    """The noise (Ho et al. 2020)."""
    return lambda c: (jnp.zeros_like(c.alpha), jnp.ones_like(c.alpha))


def v() -> Prediction:
    """alpha·eps - sigma·x (Salimans & Ho 2022)."""
    return lambda c: (-c.sigma, c.alpha)


def velocity() -> Prediction:
    """dx_t/dt = alpha'·x + sigma'·eps; on linear_flow eps - x (Lipman et al. 2022)."""
    return lambda c: (c.dalpha, c.dsigma)


def score() -> Prediction:
    """The conditional score -eps/sigma (Song et al. 2021)."""
    return lambda c: (jnp.zeros_like(c.alpha), -1 / c.sigma)


def edm(data_std: float = 0.5) -> Prediction:
    """The preconditioned target F of Karras et al. 2022 (eq. 7), of unit variance for data of spread ``data_std``.

    With D = alpha²·data_std² + sigma²: (sigma·x/data_std - alpha·data_std·eps)/√D, the paper's c_skip and c_out carried
    over to every process, and finite at sigma = 0. Raises ValueError unless data_std > 0.
    """
    if not data_std > 0:
        raise ValueError(f"data_std must be > 0, got {data_std}")

    def coefficients(c: Coeffs) -> tuple[Array, Array]:
        root = jnp.hypot(c.alpha * data_std, c.sigma)
        return c.sigma / (data_std * root), -c.alpha * data_std / root

    return coefficients


PREDICTIONS = {"x": x, "eps": eps, "v": v, "velocity": velocity, "score": score, "edm": edm}


def prediction(space: str | Prediction) -> Prediction:
    """A member of `PREDICTIONS` by name (with its default options), or ``space`` itself where it is one already."""
    if not isinstance(space, str):
        return space
    if space not in PREDICTIONS:
        raise ValueError(f"unknown prediction {space!r}: choose from {', '.join(PREDICTIONS)}")
    return PREDICTIONS[space]()


def det(space: Prediction, c: Coeffs) -> Array:
    """alpha·c_eps - sigma·c_x, of the shape of the coefficients: how well ``space`` and x_t determine (x, eps)."""
    c_x, c_eps = space(c)
    return c.alpha * c_eps - c.sigma * c_x


def target(space: Prediction, c: Coeffs, x: Array, eps: Array) -> Array:
    """What a network of this space should return for x and eps [b, ...]; coefficients [b]."""
    c_x, c_eps = (like(k, x) for k in space(c))
    return c_x * x + c_eps * eps


def to_x(space: Prediction, c: Coeffs, x_t: Array, out: Array) -> Array:
    """The clean image that an output [b, ...] at x_t [b, ...] implies; coefficients [b]. Singular at sigma = 0."""
    _, c_eps = space(c)
    return (like(c_eps, x_t) * x_t - like(c.sigma, x_t) * out) / like(det(space, c), x_t)


def to_eps(space: Prediction, c: Coeffs, x_t: Array, out: Array) -> Array:
    """The noise that an output [b, ...] at x_t [b, ...] implies; coefficients [b]. Singular at alpha = 0 for x."""
    c_x, _ = space(c)
    return (like(c.alpha, x_t) * out - like(c_x, x_t) * x_t) / like(det(space, c), x_t)


def like(value: Array, x: Array) -> Array:
    """A value per image [b] in a shape that multiplies x [b, ...]; a scalar stays one."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value
