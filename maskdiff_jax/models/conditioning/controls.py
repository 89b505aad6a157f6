"""Controls: numbers that say how an image was made (sizes, crop, flip, colour), apart from what it shows."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maskdiff_jax.cond import NULL_CONTROL
from maskdiff_jax.models.conditioning.base import Context, SiluMlp, given
from maskdiff_jax.models.layers import sinusoid, zeros
from maskdiff_jax.types import Cond, CondShape


def controls(shape: CondShape, width: int, features: int = 256, scale: float = 1000.0) -> nn.Module:
    """Control metadata as a vector: E_h(high) + gamma·E_l(low), with gamma = cond.phase (None: 1).

    E embeds every number by `sinusoid`, joins them, and applies a two-layer SiLU MLP whose last layer starts at 0: a
    fresh network answers as if there were no controls (Berrada Ifriqi et al. 2024, arXiv 2411.03177; the form is ours,
    after second-hand accounts of the paper). A null number has no features, and E of null numbers alone is 0.

    Disentangled, as the paper has it: members `label_token` and `controls`, and a phase of `cosine`. Entangled, its
    baseline: `label` and `controls`, and no phase.

    features: of each number, an even count (256 as in SDXL, Podell et al. 2023); not specified by the paper.
    scale: factor on the numbers before their features, which tell apart arguments that differ by about 1. One for all,
        so numbers come normalised to about [0, 1]: fractions, flags, and pixels divided by a fixed side. At 1000, a
        fraction of 1 is embedded as SDXL embeds 1000 pixels. Not specified by the paper.
    Raises ValueError where the data carry no controls, features is not even and positive, or scale is not positive;
    when called, where a kind that the network was built for is None or has another count. Others are ignored.
    """
    if min(shape.controls_high, shape.controls_low) < 0 or shape.controls_high + shape.controls_low < 1:
        got = f"controls_high={shape.controls_high} and controls_low={shape.controls_low}"
        raise ValueError(f"conditioning on controls needs at least one, got {got}")
    if features < 2 or features % 2 or not scale > 0:
        raise ValueError(f"controls: features must be even and > 0, scale > 0, got features={features}, scale={scale}")
    return ControlsVector(shape.controls_high, shape.controls_low, width, features, scale)


class ControlsVector(nn.Module):
    """See `controls`. ``high`` and ``low`` are the counts of each kind; where one is 0 there is no network for it."""

    high: int
    low: int
    width: int
    features: int
    scale: float

    @nn.compact
    def __call__(self, cond: Cond) -> Context:
        parts = []
        if self.high:
            parts.append(self._embed(given(cond, "controls_high", self.high), "high_mlp"))
        if self.low:
            low = self._embed(given(cond, "controls_low", self.low), "low_mlp")
            parts.append(low if cond.phase is None else cond.phase[:, None] * low)
        return Context(vector=sum(parts[1:], parts[0]))

    def _embed(self, numbers: Float[Array, "b m"], name: str) -> Float[Array, "b width"]:
        known = numbers != NULL_CONTROL
        waves = sinusoid(self.scale * jnp.where(known, numbers, 0).reshape(-1), self.features)
        waves = jnp.where(known[:, :, None], waves.reshape(*numbers.shape, -1), 0)
        out = SiluMlp(self.width, zeros, name=name)(waves.reshape(numbers.shape[0], -1))
        return jnp.where(known.any(axis=1, keepdims=True), out, 0)
