"""Masked and unmasked training are one program: with every token visible, losses and gradients agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.prediction import velocity
from maskdiff_jax.diffusion.process import linear_flow
from maskdiff_jax.diffusion.times import uniform
from maskdiff_jax.diffusion.weighting import constant
from maskdiff_jax.masks import dense, patch
from maskdiff_jax.models import MODELS
from maskdiff_jax.types import Batch, Cond
from tests.models.perturb import random_params

TINY = {"patch": 2, "width": 16, "depth": 1, "heads": 2}
BATCH = Batch(jax.random.uniform(jax.random.key(0), (2, 4, 4, 1), minval=-1.0), Cond(label=jnp.array([0, 1])))


def gradients(model, params, name_all: bool):
    """Loss and gradients of the whole objective; ``name_all`` gives the network the ids of all tokens, else None."""

    def apply(*arguments, visible=None, **options):
        ids = jnp.tile(jnp.arange(4)[None], (2, 1)) if name_all else visible
        return model.apply(*arguments, visible=ids, **options)

    objective = make_objective(
        model._replace(apply=apply),
        linear_flow(),
        velocity(),
        constant("velocity"),
        uniform(),
        dense(),
        passes=((1.0, patch(0.0)),),
    )
    loss = lambda p: objective.loss(p, BATCH, jax.random.key(1))[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("name", ["dit", "uvit"])
def test_with_all_tokens_visible_loss_and_gradients_are_the_unmasked_programs(name):
    model = MODELS[name]((4, 4, 1), 2, **TINY)
    params = random_params(model.init)
    (loss, grads), (masked_loss, masked_grads) = (gradients(model, params, named) for named in (False, True))
    np.testing.assert_allclose(masked_loss, loss, rtol=1e-6)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale), masked_grads, grads)
