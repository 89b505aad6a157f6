"""Running a sampler: one `lax.scan` over the steps, then the denoiser's own estimate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from maskdiff_jax.rng import key_for, normal
from maskdiff_jax.types import Array, Cond, Denoiser, Key, Process, Sampler, Shape


def initial_noise(process: Process, keys: Key, shape: Shape) -> Float[Array, "b ..."]:
    """sigma(t_max) z, one z of ``shape`` per key [b]: where sampling starts.

    Forward noise at t_max is alpha(t_max) x + sigma(t_max) z; the first part is neglected, since x is not known. With
    their default arguments alpha/sigma is 1/80 there on edm, 0.006 on ddpm_linear and below 0.001 on other processes.
    """
    return process.sigma(jnp.float32(process.t_max)) * normal(key_for(keys, "initial_noise"), shape)


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    process: Process,
    times: Float[Array, " m"],
    x: Float[Array, "b ..."],
    cond: Cond,
    keys: Key,
) -> Float[Array, "b ..."]:
    """Images [b, ...] from ``x`` at times[0], with ``keys`` [b], one per image.

    ``times`` [n + 1] come from a `Spacing`. ``sampler`` takes the first n - 1 steps; the last one, to t = 0, is the
    denoiser's estimate for every sampler, so that the denoiser is never called below t_min. An image depends on its row
    of x, of cond and of keys, and not on its neighbours. `initial_noise` may share the keys.
    Raises ValueError where ``times`` are known at trace time and do not run down to 0, or visit the denoiser outside
    [t_min, t_max] of ``process``.
    """
    return _run(denoiser, sampler, process, times, x, cond, keys, path=False)[0]


def sample_path(
    denoiser: Denoiser,
    sampler: Sampler,
    process: Process,
    times: Float[Array, " m"],
    x: Float[Array, "b ..."],
    cond: Cond,
    keys: Key,
) -> Float[Array, "n b ..."]:
    """The denoiser's estimate at each of times[:-1]; the last one is what `sample` returns. Same arguments."""
    last, before = _run(denoiser, sampler, process, times, x, cond, keys, path=True)
    return jnp.concatenate([before, last[None]])


def _run(denoiser, sampler, process, times, x, cond, keys, path: bool) -> tuple[Array, Any]:
    """The last estimate, and the earlier ones [n - 1, b, ...] where ``path`` is set, else None."""
    if not isinstance(times, Tracer):
        _check(process, np.asarray(times))
    keys = key_for(keys, "sampler_step")

    def step(carry, now):
        i, t, s = now
        x, state = carry
        seen = []  # what the step asks for; first the estimate at t, which costs no evaluation of its own

        def watched(x, t, cond):
            seen.append(denoiser(x, t, cond))
            return seen[-1]

        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
        carry = sampler.step(watched, state, x, t, s, cond, step_keys)
        return carry, seen[0].x if path else None

    t, s = times[:-2], times[1:-1]
    (x, _), before = jax.lax.scan(step, (x, sampler.init(x)), (jnp.arange(len(t)), t, s))
    return denoiser(x, times[-2], cond).x, before


def _check(process: Process, times: np.ndarray) -> None:
    if len(times) < 2 or times[-1] != 0 or not np.all(np.diff(times) < 0):
        raise ValueError(f"times must be at least two and decrease to 0, got {times}")
    low, high = np.float32(process.t_min), np.float32(process.t_max)
    if times[0] > high or times[-2] < low:
        raise ValueError(f"times[:-1] must be inside [{low:g}, {high:g}], got {times[-2]:g} to {times[0]:g}")
