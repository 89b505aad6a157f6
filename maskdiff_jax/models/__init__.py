"""Networks: ``MODELS[name](image_shape, classes, **options) -> Model``. The only package that imports flax."""

from maskdiff_jax.models.autoencoder import Autoencoder as Autoencoder
from maskdiff_jax.models.autoencoder import autoencoder_kl as autoencoder_kl
from maskdiff_jax.models.base import from_linen as from_linen
from maskdiff_jax.models.conditioning import CONDITIONINGS as CONDITIONINGS
from maskdiff_jax.models.dit import dit as dit
from maskdiff_jax.models.mdt import mdt as mdt
from maskdiff_jax.models.mmdit import mmdit as mmdit
from maskdiff_jax.models.nnx import from_nnx as from_nnx
from maskdiff_jax.models.pixart import pixart as pixart
from maskdiff_jax.models.unet import unet as unet
from maskdiff_jax.models.uvit import uvit as uvit

MODELS = {"dit": dit, "unet": unet, "uvit": uvit, "mmdit": mmdit, "mdt": mdt, "pixart": pixart}
