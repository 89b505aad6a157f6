"""What a denoiser gets wrong on average: errors and colour offsets by noise level, and the colour shift of its samples.

After "Unmasking Bias in Diffusion Model Training" (Yu et al. 2024, arXiv 2310.08442). The error of x̂ is -sigma/alpha
times that of eps̑: what is left of the latter at high noise is amplified, may offset a whole image alike, and shows as a
colour shift of samples. The grid of t, the sizes of sets and standard errors are not specified by the paper.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.diffusion.prediction import like
from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.diffusion.times import uniform
from maskdiff_jax.evaluate.sampling import UNCONDITIONAL, Sample, make_generate
from maskdiff_jax.samplers import initial_noise, sample
from maskdiff_jax.types import Array, Batch, Cond, Denoiser, Key, Params, Process, Sampler, Shape, Spacing, Times

# Called inside a jitted function that has the parameters as an argument: a closure over them would bake them in.
DenoiserOf = Callable[[Params], Denoiser]


class Level(NamedTuple):
    """Errors at ``t``: means over images, each beside its standard error (``…_error``).

    ``mse_x`` and ``mse_eps``: squared errors of x̂ and of eps̑ = (x_t - alpha·x̂)/sigma, means over elements.
    ``offset``: the mean over pixels of x̂ - x, signed, for each channel.
    """

    t: float
    mse_x: float
    mse_x_error: float
    mse_eps: float
    mse_eps_error: float
    offset: tuple[float, ...]
    offset_error: tuple[float, ...]


class Shift(NamedTuple):
    """How the colours of samples depend on the number of ``steps``; means over images beside standard errors.

    With d the channel means of a sample, less those of the sample from the same noise with the reference number of
    steps: ``shift`` is |d| for each channel, ``chroma`` the Euclidean norm of d without its mean over channels, so
    without what changes the brightness alone. ``offset``: channel means of samples less those of real images, signed.
    """

    steps: int
    shift: tuple[float, ...]
    shift_error: tuple[float, ...]
    chroma: float
    chroma_error: float
    offset: tuple[float, ...]
    offset_error: tuple[float, ...]


def middle_times(process: Process, levels: int = 8, times: Times | None = None) -> list[float]:
    """The t in the middle of each level of `make_heldout`, by the quantiles of ``times`` (default: uniform)."""
    t, _ = (times or uniform()).quantile(process, (jnp.arange(levels) + 0.5) / levels)
    return np.asarray(t).tolist()


def make_bias(
    denoiser_of: DenoiserOf,
    process: Process,
    t: Sequence[float],
    *,
    batch_size: int = 256,
    seed: int = 0,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> Callable[[Params, Batch], list[Level]]:
    """``measure(params, data) -> [Level, ...]``, one for each ``t``, every image of ``data`` seen at all of them.

    ``data`` are in the space of the denoiser (encoded, where there is a codec). The noise of an image depends on (seed,
    number of the image) alone: a figure does not depend on ``batch_size`` (but for rounding), nor on what other t are
    measured. Leave the denoiser unclipped: clipping x̂ is biased towards the middle. ``place`` puts a batch (a pytree
    with leading axis batch_size) on the devices, ``collect`` fetches results.
    Raises ValueError for a t outside [t_min, t_max], or for fewer than 2 images.
    """
    check_times(process, t)

    @jax.jit
    def errors(params: Params, batch: Batch, ids: Array, t: Array) -> tuple[Array, Array]:
        x_t = noised(process, batch.image, t, ids, seed)
        error = denoiser_of(params)(x_t, t, batch.cond).x - batch.image
        return jnp.mean(jnp.square(error), axis=(1, 2, 3)), jnp.mean(error, axis=(1, 2))

    def measure(params: Params, data: Batch) -> list[Level]:
        levels = []
        for now in t:
            square, offset = by_image(errors, params, data, now, batch_size, place, collect)
            c = coeffs(process, now)
            snr = float(c.alpha / c.sigma) ** 2  # eps̑ - eps = -(alpha/sigma)·(x̂ - x)
            mse, error = (float(value) for value in mean_and_error(square))
            levels.append(Level(float(now), mse, error, snr * mse, snr * error, *_tuples(mean_and_error(offset))))
        return levels

    return measure


def samples_by_steps(
    denoiser_of: DenoiserOf, sampler: Sampler, process: Process, spacing: Spacing, shape: Shape
) -> Callable[[int], Sample]:
    """``sample_of(steps) -> Sample`` of images of ``shape`` (h, w, c), for `make_colour_shift`."""

    def sample_of(steps: int) -> Sample:
        times = spacing(process, steps)

        def generate(params: Params, keys: Key, cond: Cond) -> Array:
            noise = initial_noise(process, keys, shape)
            return sample(denoiser_of(params), sampler, process, times, noise, cond, keys)

        return generate

    return sample_of


def make_colour_shift(
    sample_of: Callable[[int], Sample],
    steps: Sequence[int],
    *,
    batch_size: int = 250,
    place: Callable[[Any], Any] = lambda tree: tree,
    collect: Callable[[Any], np.ndarray] = np.asarray,
) -> Callable[..., list[Shift]]:
    """``measure(params, real, count, cond=Cond(), seed=0) -> [Shift, ...]``, one for each number of ``steps``.

    ``sample_of(n)`` samples with n steps; sample i has the same key, and so the same initial noise, for every n. The
    reference is the largest number of steps. ``real`` images float [m, h, w, c] in [-1, 1]; samples are clipped to that
    range. Each n compiles once. With a sampler that draws noise on its way a shift holds its randomness, too.
    Raises ValueError where ``steps`` are none or not distinct; ``measure`` for fewer than 2 samples or real images.
    """
    if not steps or len(set(steps)) < len(steps):
        raise ValueError(f"steps={tuple(steps)}: one or more different numbers of steps")
    generators = {
        n: make_generate(sample_of(n), batch_size=batch_size, place=place, collect=collect) for n in sorted(steps)
    }

    def measure(params: Params, real: np.ndarray, count: int, cond: Cond = UNCONDITIONAL, seed: int = 0) -> list[Shift]:
        means = {n: _channel_means(draw(params, count, cond, seed)) for n, draw in generators.items()}
        return colour_shift(means, _channel_means(real))

    return measure


def colour_shift(means: Mapping[int, np.ndarray], real: np.ndarray) -> list[Shift]:
    """The rows of `make_colour_shift` from channel means: of samples [n, c] by number of steps, row i always from the
    same noise, and of ``real`` images [m, c].

    Raises ValueError for fewer than 2 samples or real images.
    """
    reference = means[max(means)]
    truth, truth_error = mean_and_error(real)
    rows = []
    for steps, found in sorted(means.items()):
        away = found - reference
        tint = np.linalg.norm(away - away.mean(axis=1, keepdims=True), axis=1)
        chroma, chroma_error = (float(value) for value in mean_and_error(tint))
        mean, error = mean_and_error(found)
        offset = (mean - truth, np.hypot(error, truth_error))
        rows.append(Shift(steps, *_tuples(mean_and_error(np.abs(away))), chroma, chroma_error, *_tuples(offset)))
    return rows


def check_times(process: Process, t: Sequence[float]) -> None:
    """Raise ValueError where there is no t, or one outside [t_min, t_max]."""
    low, high = np.float32(process.t_min), np.float32(process.t_max)
    if not len(t) or not all(low <= np.float32(now) <= high for now in t):
        raise ValueError(f"t={list(t)}: one or more numbers in [{low:g}, {high:g}]")


def noised(process: Process, x: Array, t: Array, ids: Array, seed: int) -> Array:
    """x_t of images x [b, h, w, c] at a scalar t, with the noise of (seed, number ``ids`` [b]) alone."""
    keys = rng.per_image(rng.key_for(jax.random.key(seed), "diagnostics"), ids)
    c = coeffs(process, t)
    return like(c.alpha, x) * x + like(c.sigma, x) * rng.normal(keys, x.shape[1:])


def by_image(
    function: Callable[..., Any],
    params: Params,
    data: Batch,
    t: float,
    batch_size: int,
    place: Callable[[Any], Any],
    collect: Callable[[Any], np.ndarray],
) -> tuple[np.ndarray, ...]:
    """``function(params, batch, ids [b], t)``, a tuple of arrays [b, ...], over all images of ``data``, in float64.

    Batches are of one size, the last one filled up and cut. Raises ValueError for fewer than 2 images.
    """
    n = len(data.image)
    if n < 2:
        raise ValueError(f"standard errors need at least 2 images, got {n}")
    data = jax.tree.map(np.asarray, data)
    parts = []
    for start in range(0, n, batch_size):
        ids = np.arange(start, start + batch_size) % n  # wraps around in the last batch
        chunk = jax.tree.map(lambda leaf, ids=ids: leaf[ids], data)
        found = function(params, *place((chunk, ids.astype(np.uint32))), np.float32(t))
        parts.append([collect(value) for value in found])
    return tuple(np.concatenate(column)[:n].astype(np.float64) for column in zip(*parts, strict=True))


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis of [n, ...] and its standard error. Raises ValueError for fewer than 2 values."""
    if len(values) < 2:
        raise ValueError(f"standard errors need at least 2 images, got {len(values)}")
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5


def _channel_means(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2), dtype=np.float64)


def _tuples(pair: tuple[np.ndarray, np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first, second = pair
    return tuple(first.tolist()), tuple(second.tolist())
