"""The U-ViT of several segments: groups of channels, as the bands of wavelets, each a grid of tokens of its own."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import rng, tokens
from maskdiff_jax.codec import haar
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.inputs import INPUTS
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.diffusion.prediction import PREDICTIONS, to_x
from maskdiff_jax.diffusion.process import PROCESSES, coeffs
from maskdiff_jax.diffusion.times import TIMES
from maskdiff_jax.diffusion.weighting import WEIGHTINGS
from maskdiff_jax.masks import dense, patch
from maskdiff_jax.types import Batch, Cond, Output
from tests.models.test_uvit import IMAGES, LEVEL, SEGMENTS, SHAPE, B, halves, network


def test_all_ids_of_segments_equal_no_ids():
    model, params = network(**SEGMENTS)
    ids = 2 * (jnp.tile(jnp.arange(24)[None], (B, 1)),)
    chosen = model.apply(params, IMAGES, LEVEL, Cond(), visible=ids)
    every = model.apply(params, IMAGES, LEVEL, Cond())
    assert every.ids is None and len(every.prediction) == len(chosen.ids) == 2
    for one, other in zip(chosen.prediction, every.prediction, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_denoiser_assembles_the_segments():
    model, params = network(**SEGMENTS)
    process, eps = PROCESSES["ddpm_cosine"](), PREDICTIONS["eps"]()
    x = make_denoiser(model, params, process, eps, INPUTS["default"]())(IMAGES, LEVEL, Cond()).x
    approximation, details = model.apply(params, IMAGES, LEVEL, Cond()).prediction
    noise = jnp.concatenate([tokens.unpatchify(approximation, (4, 6)), tokens.unpatchify(details, (4, 6))], axis=-1)
    np.testing.assert_allclose(x, to_x(eps, coeffs(process, LEVEL), IMAGES, noise), rtol=1e-4, atol=1e-4)
    assert noise.shape == IMAGES.shape == tokens.assemble((approximation, details), model.tokens).shape


@cache
def masked_loss():
    """Of a masked pass over wavelets: the gradient, the loss of each image, the network's answer, and the noise."""
    model, params = network(**SEGMENTS)
    seen: list[Output] = []

    def spy(*args, **options):
        seen.append(model.apply(*args, **options))
        return seen[-1]

    objective = make_objective(
        model._replace(apply=spy),
        PROCESSES["ddpm_cosine"](),
        PREDICTIONS["eps"](),
        WEIGHTINGS["constant"](space="eps"),
        TIMES["uniform"](),
        dense(),
        codec=haar(),
        passes=((1.0, patch(0.5)),),
    )

    def loss(params, batch, key):
        draws = objective.draw(batch, key)
        each, _ = objective.per_image(params, batch, draws)
        return each.mean(), (each, seen.pop(), rng.normal(rng.key_for(draws.keys, "noise"), SHAPE))

    batch = Batch(jax.random.uniform(jax.random.key(2), (B, 16, 24, 1), minval=-1.0))
    gradient, (each, out, noise) = jax.jit(jax.grad(loss, has_aux=True))(params, batch, jax.random.key(3))
    return gradient, each, out, tokens.cut(noise, model.tokens)


def test_the_loss_draws_independent_masks_and_sums_the_means_of_segments():
    _, each, out, noise = masked_loss()
    goals = map(tokens.gather, noise, out.ids)
    means = [np.square(np.subtract(p, g)).mean(axis=(1, 2, 3, 4)) for p, g in zip(out.prediction, goals, strict=True)]
    np.testing.assert_allclose(each, sum(means), rtol=1e-5)

    # Two independent halves of 24 share 6 ids, with a variance of 144/92, in the mean over images.
    shared = [len(np.intersect1d(*pair)) for pair in zip(*map(np.asarray, out.ids), strict=True)]
    assert abs(np.mean(shared) - 6) < 4 * math.sqrt(144 / 92 / B)


def test_every_parameter_of_segments_gets_a_finite_nonzero_gradient():
    for path, grad in jax.tree.leaves_with_path(masked_loss()[0]):
        assert np.all(np.isfinite(grad)) and np.any(np.asarray(grad) != 0), jax.tree_util.keystr(path)


@pytest.mark.parametrize("ids", [lambda one: one, lambda one: (one,)], ids=["an array", "a tuple of one"])
def test_ids_of_segments_are_one_for_each(ids):
    model, params = network(**SEGMENTS)
    with pytest.raises(ValueError, match="visible must be None or a tuple of 2 ids"):
        model.apply(params, IMAGES, LEVEL, Cond(), visible=ids(halves(0)))
