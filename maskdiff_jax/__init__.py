"""Masked and sparsely supervised image diffusion: the pure library.

The modules below hold one family each (`masks.sparse`, `weighting.debias`, `samplers.heun`, …), with a table of its
members in capitals; the functions put members together. Nothing here touches files, flags or logs. The trainer on top
of it is ``python -m maskdiff_jax.main``; what it has trained is used through `load`, imported when it is asked for.
"""

from typing import Any

from maskdiff_jax import codec as codec
from maskdiff_jax import cond as cond
from maskdiff_jax import masks as masks
from maskdiff_jax import models as models
from maskdiff_jax import rng as rng
from maskdiff_jax import samplers as samplers
from maskdiff_jax import tokens as tokens
from maskdiff_jax import types as types
from maskdiff_jax.diffusion import editing as editing
from maskdiff_jax.diffusion import guidance as guidance
from maskdiff_jax.diffusion import inputs as inputs
from maskdiff_jax.diffusion import prediction as prediction
from maskdiff_jax.diffusion import process as process
from maskdiff_jax.diffusion import times as times
from maskdiff_jax.diffusion import weighting as weighting
from maskdiff_jax.diffusion.denoiser import make_denoiser as make_denoiser
from maskdiff_jax.diffusion.objective import Draws as Draws
from maskdiff_jax.diffusion.objective import Objective as Objective
from maskdiff_jax.diffusion.objective import make_objective as make_objective
from maskdiff_jax.types import Batch as Batch
from maskdiff_jax.types import Cond as Cond


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from maskdiff_jax.loading import load

    return load
