"""What makes a checkpoint believable: its record, and what may differ from it (see `checkpoint`).

A record is JSON: ``{"sha256": digest of the body, "body": {"format", "step", "sealed", "leaves", "data", "meta",
"metric"}}``, where ``leaves`` is {path: {dtype, shape, sha256}} of every array of the state, as "params/dense/kernel",
``metric`` a number or null, and ``sealed`` whether there must be a seal. So it also tells what is inside a checkpoint
to those who do not know the model that it was saved from. Whatever the format, a record has a body and its digest:
another version is told from damage by that.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from maskdiff_jax.train.digest import describe, flatten, form, json_digest
from maskdiff_jax.train.keeping import ranked
from maskdiff_jax.train.workdir import differences

# Of what a checkpoint holds and how; to be raised where older code would misread it, and where the trainer's state is
# another tree. Format 0 had optax's guard against bad steps; records name their format since 1.
FORMAT = 1
_ONLY_IN_0 = "opt_state/notfinite_count"

# Which parameters: None for the raw ones, a decay for their average, "first" for the first average of the config.
Average = float | Literal["first"] | None


class CheckpointError(OSError):
    """A checkpoint that cannot be written, read or used, in one line."""


class Damaged(Exception):
    """A checkpoint does not match its record."""


def make_record(
    step: int, state: Any, data: dict[str, Any], meta: dict[str, Any], metric: float | None = None
) -> dict[str, Any]:
    """The record of a state. Every process must call this together."""
    content = {"leaves": describe(state), "data": data, "meta": meta, "metric": ranked(metric)}
    body = json.loads(json.dumps({"format": FORMAT, "step": step, "sealed": True, **content}))
    return {"sha256": json_digest(body), "body": body}


def body_of(checkpoint: str, record: Any, step: int) -> dict[str, Any]:
    """The body of a record. Raises `Damaged` unless it matches its own digest and belongs to ``step``.

    Raises `CheckpointError` where it does and is of another format; without one it is of the first two.
    """
    try:
        body, sound = record["body"], record["sha256"] == json_digest(record["body"])
    except (KeyError, TypeError) as error:
        raise Damaged("its record is unreadable") from error
    if not sound:
        raise Damaged("its record differs from its own digest")
    if (there := body.get("format", 0 if _ONLY_IN_0 in body.get("leaves", ()) else 1)) != FORMAT:
        raise CheckpointError(f"{checkpoint} was written by another version (format {there} there, {FORMAT} here)")
    if body["step"] != step:
        raise Damaged(f"its record is that of step {body['step']}")
    return body


def require_same_run(
    checkpoint: str,
    meta: Mapping[str, Any],
    config: Mapping[str, Any],
    fingerprint: str | None,
    free: Sequence[str] = (),
) -> None:
    """Raise `CheckpointError`, naming the keys that differ, where ``meta`` is that of a run of another config or data.

    Compared are ``meta["config"]``, but for what is ``free`` (see `differences`), and, unless it is None,
    ``meta["fingerprint"]``.
    """
    if not {"config", "fingerprint"} <= meta.keys():
        raise CheckpointError(f"{checkpoint} does not say of which config and data it is")
    stored, wanted = dict(meta["config"]), dict(config)
    if fingerprint is not None:
        stored["data fingerprint"], wanted["data fingerprint"] = meta["fingerprint"], fingerprint
    if changed := differences(stored, wanted, free, there="in the checkpoint"):
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


def _shown(leaf: dict[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _and_more(differing: list[str]) -> str:
    return f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
