"""UniPC, a multistep predictor-corrector in the space of x (Zhao et al. 2023, arXiv 2302.04867, section 3)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from maskdiff_jax.diffusion.process import coeffs, log_snr
from maskdiff_jax.types import Array, Process, Sampler

ORDERS = (2, 3, 4)
VARIANTS = ("bh1", "bh2")

# Gauss' rule on [0, 1]. It integrates exp(-h(1 - u)) times a cubic to rounding for steps up to h = 20, without the
# cancellation that the closed forms suffer from where h is small.
_ROOTS, _SHARES = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (_ROOTS + 1).astype(np.float32) / 2, _SHARES.astype(np.float32) / 2


class History(NamedTuple):
    """What a step leaves to the next one: the corrected x and its sigma, and the polynomial through the last estimates.

    The polynomial in lambda = log(alpha/sigma) is kept as Newton's divided differences [p, b, ...], newest first, with
    its nodes [p]; ``count`` of them have been filled.
    """

    count: Array
    x: Array
    sigma: Array
    nodes: Array
    differences: Array


def unipc(process: Process, order: int = 3, variant: str = "bh2") -> Sampler:
    """Order 2, 3 or 4, deterministic, one evaluation a step.

    ``order`` is the order of accuracy, as everywhere here. The paper and other libraries count p = order - 1: order 3
    is UniPC-2, of predictor UniP-2 (order 2) and corrector UniC-2, which raises it by one. An estimate first corrects
    the step that led to it and then predicts the next one; it is made at the predicted x, so correcting costs nothing.
    The first steps have a shorter history and lower orders, as in the paper; the last one, to t = 0, is the denoiser's.

    Both halves integrate a polynomial through the latest estimates, exactly where it is of degree 2 and more. Where it
    is a line the paper puts B(h)/2 for the weight of its slope: B(h) = h in ``variant`` 'bh1' and 1 - exp(-h) in 'bh2'.
    Raises ValueError for another order or variant.
    """
    if order not in ORDERS:
        raise ValueError(f"unipc: order={order!r}: choose from {', '.join(map(str, ORDERS))}")
    if variant not in VARIANTS:
        raise ValueError(f"unipc: variant={variant!r}: choose from {', '.join(VARIANTS)}")
    p = order - 1

    def init(x):
        one = jnp.ones((), x.dtype)
        return History(jnp.int32(0), jnp.zeros_like(x), one, jnp.zeros(p, x.dtype), jnp.zeros((p, *x.shape), x.dtype))

    def integral(start, end, nodes, polynomial, degree):
        """∫ exp(lambda - end) polynomial(lambda) dlambda from ``start`` to ``end``, of Newton's form on ``nodes``."""
        h = end - start
        kernel = h * _WEIGHTS * jnp.exp(-h * (1 - _NODES))
        basis = jnp.cumprod(start + h * _NODES[:, None] - nodes[None, : len(polynomial) - 1], axis=1)
        flat, slopes = -jnp.expm1(-h), jnp.sum(kernel[:, None] * basis, axis=0)  # no matmul: those may round to bf16
        if len(polynomial) > 1:
            b = h if variant == "bh1" else flat
            slopes = slopes.at[0].add(jnp.where(degree == 1, h * (b / 2 - jnp.sum(kernel * _NODES)), 0))
        return sum((w * d for w, d in zip(slopes, polynomial[1:], strict=True)), flat * polynomial[0])

    def step(denoiser, before, x, t, s, cond, keys):
        now, then = coeffs(process, t), coeffs(process, s)
        here, there = log_snr(now) / 2, log_snr(then) / 2
        nodes = jnp.concatenate([here[None], before.nodes])
        polynomial = [denoiser(x, t, cond).x]
        for k in range(1, p + 1):
            filled = before.count >= k
            gap = jnp.where(filled, here - nodes[k], 1)
            polynomial.append(jnp.where(filled, (polynomial[-1] - before.differences[k - 1]) / gap, 0))

        back = jnp.where(before.count > 0, nodes[1], here)
        rise = integral(back, here, nodes, polynomial, jnp.minimum(before.count, p))
        x = jnp.where(before.count > 0, now.sigma / before.sigma * before.x + now.alpha * rise, x)

        rise = integral(here, there, nodes, polynomial[:p], jnp.minimum(before.count, p - 1))
        after = History(before.count + 1, x, now.sigma, nodes[:p], jnp.stack(polynomial[:p]))
        return then.sigma / now.sigma * x + then.alpha * rise, after

    return Sampler(init=init, step=step)
