"""Our side: the trainer's compiled step and sampler for a setup."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.setups import Recipe, Setup
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.guidance import classifier_free
from maskdiff_jax.diffusion.inputs import default
from maskdiff_jax.diffusion.objective import Objective, make_objective
from maskdiff_jax.diffusion.prediction import velocity
from maskdiff_jax.diffusion.process import linear_flow
from maskdiff_jax.diffusion.times import uniform
from maskdiff_jax.diffusion.weighting import constant
from maskdiff_jax.masks import dense, patch
from maskdiff_jax.models.dit import dit
from maskdiff_jax.models.uvit import uvit
from maskdiff_jax.samplers.euler import euler
from maskdiff_jax.samplers.loop import sample
from maskdiff_jax.samplers.spacing import uniform as uniform_spacing
from maskdiff_jax.train.flops import training_flops
from maskdiff_jax.train.optim import Optimizer, adamw, make_optimizer
from maskdiff_jax.train.optim import constant as constant_rate
from maskdiff_jax.train.step import make_step
from maskdiff_jax.types import Array, Batch, Cond, Model, Params, Visibility

NETWORKS: dict[str, Callable[..., Model]] = {"dit": dit, "uvit": uvit}


class Raw(NamedTuple):
    """A batch on the host: images [b, h, w, c] in [-1, 1] and labels [b]."""

    image: np.ndarray
    label: np.ndarray


def raw_of(setup: Setup) -> Raw:
    random = np.random.default_rng(1)
    image = random.uniform(-1, 1, (setup.batch, *setup.shape)).astype(np.float32)
    return Raw(image, random.integers(0, setup.classes, setup.batch).astype(np.int32))


def noise_of(setup: Setup) -> np.ndarray:
    """Noise [b, h, w, c] for a sampler to start from."""
    return np.random.default_rng(3).standard_normal((setup.batch, *setup.shape), np.float32)


def model_of(setup: Setup, dtype: str) -> Model:
    return NETWORKS[setup.network](setup.shape, setup.classes, **setup.size, **setup.options, dtype=dtype)


def visibility_of(setup: Setup) -> Visibility | None:
    return patch(setup.masked) if setup.masked else None


def objective_of(setup: Setup, dtype: str) -> Objective:
    """Flow matching: the velocity on the straight path, uniform t, every element of the visible tokens."""
    passes = ((1.0, visibility_of(setup)),)
    model, goal = model_of(setup, dtype), velocity()
    return make_objective(model, linear_flow(), goal, constant(goal), uniform(), dense(), passes=passes)


def optimizer_of(recipe: Recipe) -> Optimizer:
    rule = adamw(recipe.b1, recipe.b2, recipe.eps, recipe.weight_decay)
    return make_optimizer(rule, constant_rate(10**6, recipe.rate), clip=recipe.clip, ema=(recipe.decay,))


def flops_of(setup: Setup, dtype: str) -> float:
    """Analytic FLOPs of training on one image, 6 for each multiplication of the forward pass; nothing is computed.

    Of the plain network: what our options recompute does not count.
    """
    plain = setup._replace(options={})
    raw = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, raw_of(plain)))
    params = jax.eval_shape(model_of(plain, dtype).init, jax.random.key(0))
    batch = Batch(raw.image, Cond(label=raw.label))
    return training_flops(objective_of(plain, dtype).loss, params, batch, jax.random.key(0)) / setup.batch


def step_of(setup: Setup, recipe: Recipe, dtype: str) -> Callable[..., Any]:
    """The trainer's step, for `jit_step`; what it ingests is a `Raw`."""

    def ingest(raw: Raw, tables: None) -> Batch:
        return Batch(raw.image, Cond(label=raw.label))  # pyright: ignore[reportArgumentType]  (arrays when traced)

    return make_step(objective_of(setup, dtype), optimizer_of(recipe), ingest)


def times_of(steps: int) -> tuple[float, ...]:
    """The times of a sampler of that many calls of the denoiser, from t_max to 0."""
    return tuple(float(t) for t in uniform_spacing()(linear_flow(), steps))


def sampler_of(setup: Setup, dtype: str) -> Callable[[Params, Array, Array], Array]:
    """(parameters, noise [b, h, w, c], labels [b]) -> images, by Euler's method; compiled."""
    model, process = model_of(setup, dtype), linear_flow()
    times, guided = uniform_spacing()(process, setup.steps), classifier_free(setup.guidance)

    def images(params: Params, noise: Array, label: Array) -> Array:
        denoiser = guided(make_denoiser(model, params, process, velocity(), default()))
        keys = jax.random.split(jax.random.key(0), noise.shape[0])  # Euler's method draws nothing
        return sample(denoiser, euler(process), process, times, noise, Cond(label=label), keys)

    return jax.jit(images)
