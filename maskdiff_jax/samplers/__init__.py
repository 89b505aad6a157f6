"""Samplers: from noise to data with a denoiser. `sample` runs any of them on any spacing."""

from maskdiff_jax.samplers import likelihood as likelihood
from maskdiff_jax.samplers.ancestral import ancestral
from maskdiff_jax.samplers.ddim import ddim
from maskdiff_jax.samplers.dpm_solver import dpm_solver
from maskdiff_jax.samplers.euler import euler
from maskdiff_jax.samplers.heun import heun
from maskdiff_jax.samplers.loop import initial_noise as initial_noise
from maskdiff_jax.samplers.loop import sample as sample
from maskdiff_jax.samplers.loop import sample_path as sample_path
from maskdiff_jax.samplers.spacing import SPACINGS as SPACINGS
from maskdiff_jax.samplers.unipc import unipc

# Process, then the options by name -> Sampler.
SAMPLERS = {
    "ddim": ddim,
    "ancestral": ancestral,
    "euler": euler,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "unipc": unipc,
}
