"""What makes a checkpoint believable: its record, and what may differ from it (see `checkpoint`).

A record is JSON: ``{"sha256": digest of the body, "body": {"step", "leaves", "data", "meta"}}``, where ``leaves`` is
{path: {dtype, shape, sha256}} of every array of the state, as "params/dense/kernel". So it also tells what is inside a
checkpoint to those who do not know the model that it was saved from.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
from jax.experimental import multihost_utils

from maskdiff_jax.train import seal
from maskdiff_jax.train.digest import describe, flatten, form, json_digest

T = TypeVar("T")

# Which parameters: None for the raw ones, a decay for their average, "first" for the first average of the config.
Average = float | Literal["first"] | None


class CheckpointError(OSError):
    """A checkpoint that cannot be written, read or used, in one line."""


class Damaged(Exception):
    """A checkpoint does not match its record."""


class SavedParams(NamedTuple):
    """The parameters of a checkpoint as nested dicts, its step and the caller's ``meta``, as saved."""

    step: int
    params: dict[str, Any]
    meta: dict[str, Any]


def make_record(step: int, state: Any, data: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """The record of a state. Every process must call this together."""
    body = json.loads(json.dumps({"step": step, "leaves": describe(state), "data": data, "meta": meta}))
    return {"sha256": json_digest(body), "body": body}


def body_of(record: Any, step: int) -> dict[str, Any]:
    """The body of a record. Raises `Damaged` unless it matches its own digest and belongs to ``step``."""
    try:
        body, sound = record["body"], record["sha256"] == json_digest(record["body"])
    except (KeyError, TypeError) as error:
        raise Damaged("its record is unreadable") from error
    if not sound:
        raise Damaged("its record differs from its own digest")
    if body["step"] != step:
        raise Damaged(f"its record is that of step {body['step']}")
    return body


def require_seal(folder: Path) -> None:
    """Raise `Damaged` where a file of the checkpoint ``folder`` differs from its seal."""
    if why := seal.broken(folder):
        raise Damaged(why)


def require_fit(checkpoint: str, leaves: dict[str, Any], abstract_state: Any) -> None:
    """Raise `CheckpointError` unless the arrays of a record are those of ``abstract_state``, ``...`` left out.

    A sound record of another tree is the configuration's fault and no damage: nothing may be moved aside for it.
    """
    here = {path: form(leaf) for path, leaf in flatten(abstract_state).items()}
    there = {path: {"dtype": leaf["dtype"], "shape": leaf["shape"]} for path, leaf in leaves.items()}
    if any(leaf is ... for leaf in jax.tree.leaves(abstract_state)):
        there = {path: there[path] for path in there.keys() & here.keys()}
    if differing := sorted(path for path in here.keys() | there.keys() if here.get(path) != there.get(path)):
        path = differing[0]
        raise CheckpointError(
            f"{checkpoint} holds another model: "
            f"{path} is {_shown(there.get(path))} there, {_shown(here.get(path))} here{_and_more(differing)}"
        )


def require_equal(read: dict[str, Any], saved: dict[str, Any]) -> None:
    """Raise `Damaged` unless the arrays that were read (see `describe`) are those of the record."""
    if differing := [path for path, leaf in read.items() if leaf != saved[path]]:
        raise Damaged(f"leaf {differing[0]}: digest differs{_and_more(differing)}")


def params_in(checkpoint: str, body: dict[str, Any], average: Average) -> dict[str, str]:
    """{path among the parameters: path in the state} of the raw parameters or of one of their averages.

    Raises `CheckpointError` where the state holds no such parameters, naming the averages that there are.
    """
    if average == "first":
        try:
            average = float(body["meta"]["config"]["ema"][0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint} does not say which average is its first: name a decay") from error
    averages: dict[str, dict[str, str]] = {}
    raw: dict[str, str] = {}
    for path in body["leaves"]:
        if found := re.match(r"opt_state/(?:.*?/)?ema/([^/]+)/(.+)", path):
            averages.setdefault(found[1], {})[found[2]] = path
        elif path.startswith("params/"):
            raw[path.removeprefix("params/")] = path
    if average is None:
        if not raw:
            raise CheckpointError(f"{checkpoint} holds no parameters")
        return raw
    if repr(float(average)) not in averages:
        there = ", ".join(sorted(averages)) or "none"
        raise CheckpointError(f"{checkpoint} holds no average with decay {average!r}; there are: {there}")
    return averages[repr(float(average))]


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """{"dense/kernel": leaf} as {"dense": {"kernel": leaf}}."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def agreed(attempt: Callable[[], T]) -> T:
    """The attempt's result; damage where any process met it, as all of them must try the same checkpoint next."""
    result, damage = None, None
    try:
        result = attempt()
    except Damaged as error:
        damage = error
    if jax.process_count() > 1 and not multihost_utils.process_allgather(damage is None).all():
        raise damage or Damaged("another process cannot read it")
    if damage:
        raise damage
    return cast(T, result)


def newest(
    directory: Path,
    steps: Sequence[int],
    read: Callable[[int], T],
    warn: Callable[[str], Any],
    set_aside: Callable[[int], str],
) -> T | None:
    """What ``read`` makes of the latest of ``steps`` at which it meets no damage; None where there never were any.

    Later ones are then reported, one line each, with what ``set_aside`` says about having moved them. Raises
    `CheckpointError` where all are damaged.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps):
        try:
            found = read(step)
        except Damaged as error:
            damaged[step] = str(error)
            continue
        for bad, why in damaged.items():
            warn(f"checkpoint {bad} is damaged: {why}; using {step}{set_aside(bad)}")
        return found
    if damaged:
        reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
        raise CheckpointError(f"no checkpoint in {directory} is sound ({reasons})")
    if directory.is_dir() and (aside := sorted(path.name for path in directory.glob("damaged-*"))):
        raise CheckpointError(f"no sound checkpoint is left in {directory}, only {', '.join(aside)}")
    return None


def set_aside(directory: Path, step: int) -> Path:
    """Move a damaged checkpoint to a free name beside it, which is returned. Every process must call this together."""
    names = [f"damaged-{step}", *(f"damaged-{step}-{i}" for i in range(2, 1000))]
    target = next(directory / name for name in names if not (directory / name).exists())
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maskdiff_jax: choose where to set a checkpoint aside")
    if jax.process_index() == 0:
        (directory / str(step)).rename(target)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maskdiff_jax: checkpoint set aside")
    return target


def reason(error: BaseException) -> str:
    """Why, in one short line: TensorStore wraps it in the path of reading and the whole storage specification."""
    while error.__cause__ is not None:
        error = error.__cause__
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).split(" [tensorstore_spec")[0].splitlines()), "")
    return f"{type(error).__name__}: {text if len(text) <= 200 else '… ' + text[-200:]}"


def _shown(leaf: dict[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _and_more(differing: list[str]) -> str:
    return f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
