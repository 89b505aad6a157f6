"""From a config to an experiment: a frozen bundle of pure functions. Every error in a config is raised here."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax import rng
from maskdiff_jax.checks import check_controls, check_metrics, check_values
from maskdiff_jax.codec import CODECS
from maskdiff_jax.cond import TEXT_PADDINGS, example
from maskdiff_jax.config import default_config
from maskdiff_jax.data import AUGMENTS, DATASETS, Augment, Dataset
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.guidance import GUIDANCES
from maskdiff_jax.diffusion.inputs import INPUTS
from maskdiff_jax.diffusion.objective import Objective, make_objective
from maskdiff_jax.diffusion.phase import PHASES
from maskdiff_jax.diffusion.prediction import PREDICTIONS
from maskdiff_jax.diffusion.process import PROCESSES, shift
from maskdiff_jax.diffusion.times import TIMES
from maskdiff_jax.diffusion.weighting import WEIGHTINGS, clipped, constant, normalised
from maskdiff_jax.evaluate.features import FEATURES, Make
from maskdiff_jax.evaluate.judge import JUDGES, Judge
from maskdiff_jax.evaluate.likelihood import BitsPerDim, make_bits_per_dim
from maskdiff_jax.masks import SUPERVISIONS, VISIBILITIES, dense
from maskdiff_jax.models import MODELS
from maskdiff_jax.parts import check_keys, checked, find, part
from maskdiff_jax.pictures import Pictures, check_latents, make_pictures
from maskdiff_jax.samplers import SAMPLERS, SPACINGS, initial_noise, sample
from maskdiff_jax.train.guard import check_spike
from maskdiff_jax.train.optim import OPTIMIZERS, SCHEDULES, Optimizer, make_optimizer
from maskdiff_jax.train.parallel import ENGINES, check_batch, make_mesh
from maskdiff_jax.types import (
    Array,
    Batch,
    Codec,
    Cond,
    CondShape,
    Inputs,
    Key,
    Model,
    Params,
    Phase,
    Prediction,
    Process,
    Times,
)


class Experiment(NamedTuple):
    """All that a config stands for. ``sample(params, keys [b], cond) -> images [b, h, w, c]``, for use inside jit."""

    config: ConfigDict
    dataset: Dataset
    augment: Augment
    process: Process
    prediction: Prediction
    inputs: Inputs
    codec: Codec
    image_shape: tuple[int, int, int]  # of a training image, augmented and not yet encoded
    cond: CondShape
    phase: Phase
    text_padding: Callable[[Key, Cond], Cond]
    model: Model
    objective: Objective
    heldout: Objective  # dense, all tokens visible, nothing dropped: the loss by which runs compare
    heldout_times: Times
    optimizer: Optimizer
    judge: Judge | None
    features: Make | None  # of evaluate.metrics, where there are any
    bits_per_dim: BitsPerDim | None  # the variational bound of each image, where it is asked for
    pictures: Pictures | None  # of samples [n, h, w, c]; None for latents without their autoencoder

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what ``pictures`` makes."""
        return self.image_shape if self.dataset.latents is None else self.dataset.image_shape


def build(config: ConfigDict) -> Experiment:
    """Check the whole config and make its parts. Raises ConfigError; reads the data set's description, no images."""
    check_keys(config, default_config())
    check_values(config)
    dataset = part("data", DATASETS, config.data)
    process = checked("shift", shift, part("process", PROCESSES, config.process), config.shift)
    prediction = part("prediction", PREDICTIONS, config.prediction)
    inputs = part("inputs", INPUTS, config.inputs)
    codec = part("codec", CODECS, config.codec)
    augment = part("augment", AUGMENTS, config.augment)
    if dataset.latents is not None:
        check_latents(config)
        codec, augment = dataset.latents.codec, dataset.latents.augment
    image_shape = checked("augment", augment.shape, dataset.shape)
    encoded = checked("codec", codec.shape, image_shape)
    times = part("times", TIMES, config.times)
    weighting = part("weighting", WEIGHTINGS, config.weighting)
    if config.loss.max_weight is not None:
        weighting = checked("loss.max_weight", clipped, weighting, config.loss.max_weight)
    if config.loss.normalise:
        weighting = normalised(weighting, process, times)
    offered = cond_shape(dataset, config.condition)
    check_controls(config.condition, augment)
    check_metrics(config, dataset)
    phase = part("condition.phase", PHASES, config.condition.phase)
    text_padding = part("condition.text_padding", TEXT_PADDINGS, config.condition.text_padding)
    model = part("model", MODELS, config.model, encoded, offered)
    passes = [(1.0, part("visibility", VISIBILITIES, config.visibility))]
    if config.second_pass.weight:
        second = part("second_pass.visibility", VISIBILITIES, config.second_pass.visibility)
        passes.append((config.second_pass.weight, second))
    common: dict[str, Any] = {"inputs": inputs, "codec": codec, "phase": phase}
    objective = checked(
        "objective",
        make_objective,
        model,
        process,
        prediction,
        weighting,
        times,
        part("supervision", SUPERVISIONS, config.supervision),
        passes=tuple(passes),
        drop_semantics=config.condition.drop_semantics,
        drop_everything=config.condition.drop_everything,
        weight_by_inclusion=config.loss.weight_by_inclusion,
        vlb_weight=config.loss.vlb_weight,
        text_padding=text_padding,
        **common,
    )
    measured = checked("evaluate.space", constant, config.evaluate.space)
    heldout_times = part("evaluate.times", TIMES, config.evaluate.times)
    heldout = make_objective(model, process, prediction, measured, heldout_times, dense(), **common)
    bound, bits_per_dim = config.evaluate.bits_per_dim, None
    if bound.images:
        options = {"variance": bound.variance, "steps": bound.steps, "phase": phase}
        path = "evaluate.bits_per_dim"
        bits_per_dim = checked(path, make_bits_per_dim, model, process, prediction, inputs, **options)
    checked("guard.spike", check_spike, config.guard.spike)
    optimizer = checked(
        "clip",
        make_optimizer,
        part("optimizer", OPTIMIZERS, config.optimizer),
        part("schedule", SCHEDULES, config.schedule, config.steps),
        clip=config.clip,
        ema=tuple(config.ema),
        ema_warmup=config.ema_warmup,
        spike=config.guard.spike,
    )
    experiment = Experiment(
        config=config,
        dataset=dataset,
        augment=augment,
        process=process,
        prediction=prediction,
        inputs=inputs,
        codec=codec,
        image_shape=image_shape,
        cond=offered,
        phase=phase,
        text_padding=text_padding,
        model=model,
        objective=objective,
        heldout=heldout,
        heldout_times=heldout_times,
        optimizer=optimizer,
        judge=part("evaluate.judge", JUDGES, config.evaluate.judge),
        features=part("evaluate.features", FEATURES, config.evaluate.features) if config.evaluate.metrics else None,
        bits_per_dim=bits_per_dim,
        pictures=make_pictures(dataset),
    )
    trace(experiment)
    return experiment


def trace(experiment: Experiment) -> None:
    """Trace the loss and the sampler on abstract images, which raises what only shows when the parts meet."""
    config = experiment.config
    checked("batch", check_batch, config.batch, jax.device_count(), config.accumulate)
    params = jax.eval_shape(experiment.model.init, jax.random.key(0))
    batch = abstract_batch(experiment, config.batch)
    checked("objective", jax.eval_shape, experiment.objective.loss, params, batch, jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.batch))
    checked("sample", jax.eval_shape, make_sample(experiment, config.sample), params, keys, batch.cond)


def mesh_for(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a run on ``devices`` (default: all). Raises ConfigError where they do not divide as it asks."""
    mesh = checked("parallel.fsdp", make_mesh, devices, config.parallel.fsdp)
    checked("parallel.engine", ENGINES[config.parallel.engine], mesh)
    return mesh


def abstract_batch(experiment: Experiment, b: int) -> Batch:
    """Shapes of a training batch of ``b`` images."""
    return jax.eval_shape(lambda: Batch(jnp.zeros((b, *experiment.image_shape)), example(experiment.cond, b)))


def cond_shape(dataset: Dataset, condition: ConfigDict) -> CondShape:
    """The conditions that a network is given: what the data have and the config asks for."""
    return CondShape(
        classes=dataset.classes if condition.label else 0,
        text_length=dataset.text.text_length,
        text_width=dataset.text.text_width,
        pooled_width=dataset.text.pooled_width,
        controls_high=len(condition.controls_high),
        controls_low=len(condition.controls_low),
    )


def make_sample(experiment: Experiment, settings: ConfigDict) -> Callable[[Params, Key, Cond], Array]:
    """``sample(params, keys [b], cond) -> images [b, h, w, c]`` by ``settings``, a section like ``config.sample``.

    For use inside jit. An image is a function of its key and its condition alone; of latents it is what is left to be
    decoded, see `Experiment.pictures`. Raises ConfigError.
    """
    e, process = experiment, experiment.process
    sampler = part("sample.sampler", SAMPLERS, settings.sampler, process)
    guidance = part("sample.guidance", GUIDANCES, settings.guidance)
    times = checked("sample.steps", part("sample.spacing", SPACINGS, settings.spacing), process, settings.steps)
    clip = (-1.0, 1.0) if settings.clip else None

    def generate(params: Params, keys: Key, cond: Cond) -> Array:
        text, pooled = (None if v is None else v.astype(jnp.float32) for v in (cond.text, cond.pooled))
        cond = e.text_padding(rng.key_for(keys, "text_padding"), cond._replace(text=text, pooled=pooled))
        denoiser = guidance(make_denoiser(e.model, params, process, e.prediction, e.inputs, clip, e.phase))
        noise = initial_noise(process, keys, e.codec.shape(e.image_shape))
        return e.codec.decode(None, sample(denoiser, sampler, process, times, noise, cond, keys))

    return generate


def strength(guidance: ConfigDict) -> str:
    """The option of a guidance that is its strength on the semantics: the first of its factory."""
    factory = find("sample.guidance", GUIDANCES, guidance.name)
    return next(iter(inspect.signature(factory).parameters))
