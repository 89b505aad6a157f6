"""Encoders of text: token ids in, one vector for each token and, with CLIP, one for the whole text out."""

from maskdiff_jax.models.text.base import Encoded as Encoded
from maskdiff_jax.models.text.base import TextNetwork as TextNetwork
from maskdiff_jax.models.text.clip import clip as clip
from maskdiff_jax.models.text.t5 import t5 as t5
