"""How far low-level controls (sizes, colour) are let in at t: nothing at pure noise, where they would steer content.

Disentangled conditioning (Berrada Ifriqi et al. 2024, arXiv 2411.03177) phases them in during denoising by a cosine;
high-level controls (crop, flip) are never held back.
"""

import math

import jax.numpy as jnp

from maskdiff_jax.types import Phase


def none() -> Phase:
    """gamma(t) = 1: low-level controls act at every noise level. The ablation."""
    return jnp.ones_like


def cosine(a: float = 1.0, power: float = 1.0) -> Phase:
    """gamma(t) = ((1 + cos(π·t^a))/2)^power: 1 at data (t = 0), 0 at noise (t = 1), falling in between.

    A larger ``a`` lets controls in earlier in denoising, a larger ``power`` later. The paper names a cosine; both
    constants are not specified by the paper. They act on t, whatever the process makes of it: on `edm`, where t is
    sigma/sigma_max, gamma is near 1 at most noise levels unless a is well below 1.
    Raises ValueError unless both are positive and finite.
    """
    for name, value in {"a": a, "power": power}.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"cosine: {name} must be finite and > 0, got {value}")
    # (1 + cos πu)/2 as a squared sine of what is left of u: exactly 0 and 1 at the ends.
    return lambda t: jnp.square(jnp.sin(jnp.pi / 2 * (1 - t**a))) ** power


PHASES = {"none": none, "cosine": cosine}
