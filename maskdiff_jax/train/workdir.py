"""What a run may change when it goes on in a workdir."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maskdiff_jax.train.files import plain

# What may differ from the workdir's config when a run goes on: nothing here changes what is learned.
FREE = (
    "name",
    "parallel",
    "steps_per_call",
    "model.attention",
    "model.remat",
    "model.scan",
    "guard.max_bad_steps",
    "debug_nans",
    "log",
    "profile",
    "sample",
    "evaluate",
    "resident",
    "data.data_dir",
    "data.download",
    "data.path",
    "data.vae",
    "data.tile",
    "encode",
)

_ABSENT = object()


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str] = (), there: str = "in the workdir"
) -> list[str]:
    """How a configuration that is stored ``there`` differs from a new one, outside the sections (or keys) in ``free``.

    One line per key: "optimizer.lr: 0.001 in the workdir, 0.002 now".
    """
    stored, current = dict(_leaves(plain(old))), dict(_leaves(plain(new)))
    lines = []
    for key in dict.fromkeys([*stored, *current]):
        a, b = stored.get(key, _ABSENT), current.get(key, _ABSENT)
        same = a == b and isinstance(a, bool) == isinstance(b, bool)
        place = key.rpartition("].")[2]  # in an entry of a list of sections, keys have the names of their own
        if not same and not any(place == section or place.startswith(f"{section}.") for section in free):
            lines.append(f"{key}: {_shown(a)} {there}, {_shown(b)} now")
    return lines


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty section is a value, and so is a list, unless it is one of sections."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for i, item in enumerate(value):
                yield from _leaves(item, f"{prefix}{key}[{i}].")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
