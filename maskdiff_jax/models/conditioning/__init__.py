"""How conditions enter a backbone: ``CONDITIONINGS[name](classes, width, **options)`` maps a `Cond` to a `Context`."""

from maskdiff_jax.models.conditioning.base import Context as Context
from maskdiff_jax.models.conditioning.base import merge as merge
from maskdiff_jax.models.conditioning.label import label as label
from maskdiff_jax.models.conditioning.label import label_token as label_token

CONDITIONINGS = {"label": label, "label_token": label_token}
