"""What tells evaluations apart: their settings as flat facts, and groups that differ in one of them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskdiff_jax.evaluate.page.overview import leaves
from maskdiff_jax.evaluate.page.read import Evaluation, number

DIGEST = re.compile(r"[0-9a-f]{32,}")


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """Settings and features by dotted names, but for what repeats a setting (``sample.steps`` that is ``steps``)."""
    settings = {name: value for name, value in leaves(evaluation.settings) if not _echo(evaluation, name, value)}
    features = {f"features.{name}": value for name, value in leaves(evaluation.features) if name != "name"}
    own = {"features": evaluation.features.get("name"), "images": evaluation.num}
    return {name.removeprefix("sample."): value for name, value in settings.items()} | own | features


def varying(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of the facts in which the evaluations differ."""
    every = [facts(evaluation) for evaluation in evaluations]
    return [name for name in keys(every) if len({worded(fact.get(name)) for fact in every}) > 1]


def grouped(evaluations: Sequence[Evaluation], key: str) -> list[dict[float, Evaluation]]:
    """Evaluations that differ in the setting ``key`` alone, {its value: evaluation}, ascending. Equals: the newest."""
    groups: dict[str, dict[float, Evaluation]] = {}
    for e in evaluations:
        value = number(e.settings.get(key))
        if np.isfinite(value):
            others = {name: fact for name, fact in facts(e).items() if name != key}
            groups.setdefault(json.dumps(others, sort_keys=True), {})[value] = e
    return [dict(sorted(group.items())) for group in groups.values()]


def labels(evaluations: Sequence[Evaluation], key: str) -> list[str]:
    """What tells each from the others, but for ``key``: "heun, steps 25"."""
    names = [name for name in varying(evaluations) if name != key]

    def told(name: str, value: Any) -> str:
        return worded(value) if isinstance(value, str) else f"{name} {worded(value)}"

    return [", ".join(told(name, facts(evaluation).get(name)) for name in names) for evaluation in evaluations]


def keys(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, in the order in which they first appear."""
    found: dict[str, None] = {}
    for mapping in mappings:
        found |= dict.fromkeys(mapping)
    return list(found)


def worded(value: Any) -> str:
    """A setting in few letters: texts as they are, of digests the beginning."""
    if isinstance(value, str):
        return value[:8] if DIGEST.fullmatch(value) else value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _echo(evaluation: Evaluation, name: str, value: Any) -> bool:
    """Whether an inner setting has the name and the value of an outer one."""
    inner = name.split(".")[1:]
    return any(part in evaluation.settings and evaluation.settings[part] == value for part in inner)
