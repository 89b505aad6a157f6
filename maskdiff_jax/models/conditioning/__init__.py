"""How conditions enter a backbone: ``CONDITIONINGS[name](shape, width, **options)`` maps a `Cond` to a `Context`."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from maskdiff_jax.models.conditioning.base import Context as Context
from maskdiff_jax.models.conditioning.base import merge as merge
from maskdiff_jax.models.conditioning.controls import controls as controls
from maskdiff_jax.models.conditioning.label import label as label
from maskdiff_jax.models.conditioning.label import label_token as label_token
from maskdiff_jax.models.conditioning.text import pooled as pooled
from maskdiff_jax.models.conditioning.text import text as text
from maskdiff_jax.types import CondShape

CONDITIONINGS = {
    "label": label,
    "label_token": label_token,
    "text": text,
    "pooled": pooled,
    "controls": controls,
}


def conditions(
    members: Mapping[str, Mapping[str, Any]] | None, shape: CondShape, width: int, label: str = "label"
) -> dict[str, nn.Module]:
    """The modules of ``members`` (name -> options); by default one for each condition that the data carry.

    ``label`` is the member for the class label, where there are classes. Raises ValueError for an unknown name and for
    a negative number of classes.
    """
    if shape.classes < 0:
        raise ValueError(f"classes={shape.classes}: a number of classes, or 0 for an unconditional network")
    carried = {
        label: shape.classes,
        "text": shape.text_width,
        "pooled": shape.pooled_width,
        "controls": shape.controls_high + shape.controls_low,
    }
    members = {name: {} for name, size in carried.items() if size} if members is None else members
    if unknown := [name for name in members if name not in CONDITIONINGS]:
        raise ValueError(f"conditioning={unknown[0]!r}: choose from {', '.join(CONDITIONINGS)}")
    return {name: CONDITIONINGS[name](shape, width, **options) for name, options in members.items()}
