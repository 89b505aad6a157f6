"""From the parameters of one network to those of another: another number of classes, another grid, other conditions.

A leaf of the same path and shape is kept. One of another shape needs an adapter, a line in `ADAPTERS`. What only one of
the two networks has must belong to its conditions, or be named by the user: a silent mismatch is an error.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from maskdiff_jax.types import Array, Params, Shape


class Transfer(NamedTuple):
    """What became of each leaf, by its path ("block_00/attention/qkv/kernel"), with its shape.

    kept: as the old one; resized: (old shape, new shape) of those that an adapter made; dropped: only the old network
    has them; new: freshly initialised, whether the old network has them or not.
    """

    kept: dict[str, Shape]
    resized: dict[str, tuple[Shape, Shape]]
    dropped: dict[str, Shape]
    new: dict[str, Shape]


def transfer(
    old: Params, fresh: Params, *, renew: Sequence[str] = (), positions: str = "interpolate"
) -> tuple[Params, Transfer]:
    """The parameters ``old`` in the tree, shapes and dtypes of ``fresh``, a fresh initialisation; and what was done.

    Leaves that keep their shape and dtype are those of ``old`` or ``fresh`` themselves, not copies; no sharding is
    changed. Resized ones lie uncommitted on the default device; outside of jit they must be addressable.

    Args:
      renew: paths, whole or up to a "/", of what to take from ``fresh`` although it is in ``old``, and of what only one
        of the two has. Leaves of conditions ("conditions_…") may be in one of the two without being named.
      positions: 'interpolate' learned positions into the trained grid, or 'extrapolate', which keeps the trained rows
        and columns and takes those beyond from ``fresh`` (Berrada Ifriqi et al. 2024, arXiv 2411.03177, resample them).

    Raises ValueError, in one line, where a leaf of another shape has no adapter, where one of the two lacks a leaf and
    is not allowed to, where ``renew`` names nothing, and for another choice of ``positions``.
    """
    report = plan_transfer(old, fresh, renew=renew, positions=positions)
    there, table = _leaves(old), _adapters(positions)
    adapters = {path: adapter for path in report.resized if (adapter := _matching(table, path))}

    def leaf(path: str, new: Any) -> Any:
        if path in report.kept:
            return there[path] if there[path].dtype == new.dtype else there[path].astype(new.dtype)
        if path in adapters:
            return adapters[path](_free(there[path]), _free(new)).astype(new.dtype)
        return new

    leaves = [leaf(path, new) for path, new in _leaves(fresh).items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves), report


def plan_transfer(old: Params, fresh: Params, *, renew: Sequence[str] = (), positions: str = "interpolate") -> Transfer:
    """What `transfer` would do, with its errors; the leaves need shapes alone (`jax.eval_shape`)."""
    adapters = _adapters(positions)
    there, here = ({path: tuple(leaf.shape) for path, leaf in _leaves(tree).items()} for tree in (old, fresh))
    paths = sorted(there.keys() | here.keys())
    renewed = _renewed(paths, renew)
    plan, mismatches = Transfer({}, {}, {}, {}), []
    for path in paths:
        before, after = there.get(path), here.get(path)
        if path in renewed or (path.startswith("conditions_") and (before is None or after is None)):
            if after is not None:
                plan.new[path] = after
            elif before is not None:
                plan.dropped[path] = before
        elif before is None or after is None:
            mismatches.append(f"{path} is only in the {'old' if after is None else 'new'} network")
        elif before == after:
            plan.kept[path] = after
        elif _matching(adapters, path) and (len(before), before[-1:]) == (len(after), after[-1:]):
            plan.resized[path] = (before, after)
        else:
            mismatches.append(f"{path} has shape {list(before)} in the old and {list(after)} in the new network")
    if mismatches:
        raise ValueError(_explained(mismatches, len(paths)))
    return plan


def format_transfer(report: Transfer) -> str:
    """A table for logs, a line each for what was kept, resized, dropped and is new: leaves, parameters, and which."""
    after = {path: shape for path, (_, shape) in report.resized.items()}
    resized = [f"{path} {list(a)} -> {list(b)}" for path, (a, b) in report.resized.items()]
    rows = [
        ("kept", report.kept, []),
        ("resized", after, resized),
        ("dropped", report.dropped, _tops(report.dropped)),
        ("new", report.new, _tops(report.new)),
    ]
    lines = []
    for name, shapes, details in rows:
        size = sum(math.prod(shape) for shape in shapes.values())
        line = f"  {name:8}{len(shapes):5} leaves {size:13,} parameters"
        lines.append(f"{line}  {', '.join(details)}".rstrip())
    return "\n".join(lines)


def label_rows(old: Array, fresh: Array) -> Array:
    """Rows [classes + 1, width]: of common classes from ``old``, of others from ``fresh``; the null label is last."""
    common = min(len(old), len(fresh)) - 1
    return jnp.concatenate([old[:common], fresh[common:-1], old[-1:]])


def interpolate(old: Array, fresh: Array) -> Array:
    """A grid [rows, columns, width] read at the centres of the patches of another, bilinearly.

    Patch i of n has its centre at (i + 1/2)/n of the image's side, whatever the grid; beyond the outer centres the
    outer values hold. A coarser grid is read off without smoothing, as `sincos_2d` reads its positions.
    """
    return jax.image.resize(old.astype(jnp.float32), fresh.shape, "linear", antialias=False)


def common_block(old: Array, fresh: Array) -> Array:
    """``fresh`` with the places that ``old`` also has, counted from the first along each axis, from ``old``."""
    block = tuple(slice(min(sides)) for sides in zip(old.shape, fresh.shape, strict=True))
    return fresh.at[block].set(old[block].astype(fresh.dtype))


Adapter = Callable[[Array, Array], Array]

# What matches the whole path of a leaf -> what makes a leaf of the shape of the fresh one from (old, fresh). The number
# of axes and the width, the last of them, stay.
ADAPTERS: dict[str, Adapter] = {
    r"conditions_label(_token)?/table/embedding": label_rows,
    r"(.*/)?extra_positions": common_block,  # tokens beside the image's: the level first, then the conditions
}
GRIDS = r"(.*/)?positions(_\d+)?"  # learned positions, of one segment each
POSITIONS: dict[str, Adapter] = {"interpolate": interpolate, "extrapolate": common_block}


def _adapters(positions: str) -> dict[str, Adapter]:
    if positions not in POSITIONS:
        raise ValueError(f"positions={positions!r}: choose from {', '.join(POSITIONS)}")
    return {**ADAPTERS, GRIDS: POSITIONS[positions]}


def _matching(adapters: dict[str, Adapter], path: str) -> Adapter | None:
    return next((adapter for rule, adapter in adapters.items() if re.fullmatch(rule, path)), None)


def _renewed(paths: Sequence[str], renew: Sequence[str]) -> set[str]:
    renewed: set[str] = set()
    for name in [renew] if isinstance(renew, str) else renew:
        if not (found := {path for path in paths if path == name or path.startswith(f"{name}/")}):
            tops = ", ".join(_tops(paths))
            raise ValueError(
                f"renew={name!r} names no parameter: whole names as in {paths[0]!r}, beginning with {tops}"
            )
        renewed |= found
    return renewed


def _explained(mismatches: Sequence[str], total: int) -> str:
    first, more = "; ".join(mismatches[:3]), f"; and {len(mismatches) - 3} more" if len(mismatches) > 3 else ""
    found = f"{len(mismatches)} of {total} parameters do not match: {first}{more}"
    if 2 * len(mismatches) > total:
        return f"another architecture: {found}"
    return f"{found}. What is to be initialised anew must be named in renew"


def _leaves(tree: Params) -> dict[str, Any]:
    """{path: leaf} in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _tops(paths: Iterable[str]) -> list[str]:
    return sorted({path.split("/")[0] for path in paths})


def _free(leaf: Any) -> Array:
    """Committed to no device, so that leaves from different ones combine; a traced leaf is on none yet."""
    return leaf if isinstance(leaf, Tracer) else jnp.asarray(np.asarray(leaf))
