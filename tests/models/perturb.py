"""Parameters away from their initialisation: a fresh adaLN-zero network outputs 0 and would pass most tests."""

import jax
import numpy as np

from maskdiff_jax.types import Params


def perturbed(params: Params, scale: float = 0.05) -> Params:
    """``params`` plus N(0, scale) noise (NumPy's: nothing to compile)."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + scale * rng.standard_normal(x.shape, np.float32), params)


def random_params(model_init, scale: float = 0.05) -> Params:
    """N(0, scale) parameters of the shapes that ``model_init(key)`` has, without compiling or running it."""
    shapes = jax.eval_shape(model_init, jax.random.key(0))
    return perturbed(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), scale)
