"""Masks as choices: which tokens the network sees (visibility), which outputs carry loss (supervision)."""

from maskdiff_jax.masks.maps import mask_maps as mask_maps
from maskdiff_jax.masks.supervision import SUPERVISIONS as SUPERVISIONS
from maskdiff_jax.masks.supervision import dense as dense
from maskdiff_jax.masks.supervision import sparse as sparse
from maskdiff_jax.masks.theory import attenuation as attenuation
from maskdiff_jax.masks.theory import mask_variance as mask_variance
from maskdiff_jax.masks.theory import masked_covariance as masked_covariance
from maskdiff_jax.masks.theory import mean_inverse_count as mean_inverse_count
from maskdiff_jax.masks.theory import noise_matched_batch as noise_matched_batch
from maskdiff_jax.masks.visibility import VISIBILITIES as VISIBILITIES
from maskdiff_jax.masks.visibility import all_tokens as all_tokens
from maskdiff_jax.masks.visibility import block as block
from maskdiff_jax.masks.visibility import crop as crop
from maskdiff_jax.masks.visibility import patch as patch
