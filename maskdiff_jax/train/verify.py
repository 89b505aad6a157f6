"""What makes a checkpoint believable: its record, and what may differ from it (see `checkpoint`).

A record is JSON: ``{"sha256": digest of the body, "body": {"format", "step", "leaves", "data", "meta", "metric"}}``,
where ``leaves`` is {path: {dtype, shape, sha256}} of every array of the state, as "params/dense/kernel", and ``metric``
a number or null. So it also tells what is inside a checkpoint to those who do not know the model that it was saved
from. Whatever the format, a record has a body and its digest: another version is told from damage by that.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskdiff_jax.train.digest import describe, flatten, form, json_digest
from maskdiff_jax.train.workdir import differences

T = TypeVar("T")

FORMAT = 1  # of what a checkpoint holds and how; to be raised where older code would misread it

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


def make_record(
    step: int, state: Any, data: dict[str, Any], meta: dict[str, Any], metric: float | None = None
) -> dict[str, Any]:
    """The record of a state. Every process must call this together."""
    content = {"leaves": describe(state), "data": data, "meta": meta, "metric": ranked(metric)}
    body = json.loads(json.dumps({"format": FORMAT, "step": step, **content}))
    return {"sha256": json_digest(body), "body": body}


def ranked(metric: float | None) -> float | None:
    """The metric as a number by which checkpoints can be ranked: None for None, NaN and infinities."""
    return None if metric is None or not math.isfinite(metric) else float(metric)


def ranking(metrics: Mapping[int, float | None]) -> list[int]:
    """The steps of {step: metric} that have one, that of the least first; of equal ones the latest."""
    found = {step: metric for step, metric in metrics.items() if metric is not None}
    return sorted(found, key=lambda step: (found[step], -step))


class Best:
    """A preservation policy: the ``count`` checkpoints of the least metric.

    Orbax's `BestN` takes NaN for the best, preserves everything while there is little, and deletes the best once a
    manager was opened without its reading every checkpoint.
    """

    def __init__(self, count: int):
        self.count = count
        self.metrics: dict[int, float | None] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = ranking({checkpoint.step: self.metrics.get(checkpoint.step) for checkpoint in checkpoints})
        return [checkpoint.step in best[: self.count] for checkpoint in checkpoints]


def body_of(checkpoint: str, record: Any, step: int) -> dict[str, Any]:
    """The body of a record. Raises `Damaged` unless it matches its own digest and belongs to ``step``.

    Raises `CheckpointError` where it does and is of another format; without one it is of the first.
    """
    try:
        body, sound = record["body"], record["sha256"] == json_digest(record["body"])
    except (KeyError, TypeError) as error:
        raise Damaged("its record is unreadable") from error
    if not sound:
        raise Damaged("its record differs from its own digest")
    if (there := body.get("format", 1)) != FORMAT:
        raise CheckpointError(f"{checkpoint} was written by another version (format {there} there, {FORMAT} here)")
    if body["step"] != step:
        raise Damaged(f"its record is that of step {body['step']}")
    return body


def require_same_run(
    checkpoint: str, meta: Mapping[str, Any], config: Mapping[str, Any], fingerprint: str, free: Sequence[str] = ()
) -> None:
    """Raise `CheckpointError`, naming the keys that differ, where ``meta`` is that of a run of another config or data.

    Compared are ``meta["config"]``, but for what is ``free`` (see `differences`), and ``meta["fingerprint"]``.
    """
    if not {"config", "fingerprint"} <= meta.keys():
        raise CheckpointError(f"{checkpoint} does not say of which config and data it is")
    stored = {**meta["config"], "data fingerprint": meta["fingerprint"]}
    if changed := differences(stored, {**config, "data fingerprint": fingerprint}, free):
        raise CheckpointError(f"{checkpoint} is of another run: {'; '.join(changed)}")


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
    """The attempt's result; an error where any process met one, as all of them must do the same next."""
    result, error = None, None
    try:
        result = attempt()
    except (Damaged, CheckpointError) as met:
        error = met
    if jax.process_count() > 1:
        rank = np.int32(0 if error is None else 1 if isinstance(error, Damaged) else 2)
        worst = int(multihost_utils.process_allgather(rank).max())
        if worst > rank:
            error = (Damaged, CheckpointError)[worst - 1]("another process cannot read it")
    if error:
        raise error
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


def _shown(leaf: dict[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _and_more(differing: list[str]) -> str:
    return f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
