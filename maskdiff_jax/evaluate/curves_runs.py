"""Runs as the trainer leaves them: their curves, which of them are seeds of one arm, and where a comparison limps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskdiff_jax.evaluate.curves import AXES, Curve, curve_of
from maskdiff_jax.train import workdir
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.workdir import differences
from maskdiff_jax.train.writers import read_jsonl

# Keys in which the seeds of an arm may differ: the seed, and what a run may change when it goes on.
FREE = ("seed", *workdir.FREE)
MEANING = ("evaluate", "data", "codec", "process", "shift")  # sections that a held-out metric depends on


class UnknownCost(ValueError):
    """What a run has inherited has cost nobody knows what."""


class Run(NamedTuple):
    """A workdir: its config and those of the runs it was started from, its curve and the cost it ``inherited``."""

    path: Path
    lineage: list[dict[str, Any]]
    curve: Curve
    inherited: dict[str, float] | None
    report: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.lineage[0]

    @property
    def name(self) -> str:
        return self.config.get("name") or self.path.resolve().name


def read_run(path: Path, metric: str, sunk: bool = False) -> Run:
    """The run in the workdir ``path``. Raises ValueError, in one line that names the file, where it cannot be read."""
    for name in ("config.json", "metrics.jsonl"):
        if not (path / name).is_file():
            raise ValueError(f"{path} is not a run: it has no {name}")
    lines, inherited = path / "metrics.jsonl", None
    try:
        inherited = cost_inherited(path)
    except UnknownCost as error:
        if not sunk:
            raise ValueError(f"{error}: leave them out by --sunk") from error
    try:
        rows = read_jsonl(lines)
        if not all(type(row["step"]) is int for row in rows):
            raise TypeError("a step is a whole number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{lines}, line {_unreadable(lines)}: not a JSON object with a step") from error
    try:
        curve = curve_of(rows, metric, None if sunk else inherited)
    except ValueError as error:
        raise ValueError(f"{lines}: {error}") from error
    report = _object(path / "report.json") if (path / "report.json").is_file() else {}
    return Run(path, _lineage(path, _object(path / "config.json")), curve, inherited, report)


def cost_inherited(path: Path) -> dict[str, float] | None:
    """What the parameters of a run had cost before its first step, on every axis; None where it has inherited none.

    Raises UnknownCost where that is not known, as of networks of others.
    """
    transfer = path / "transfer.json"
    if not transfer.is_file():
        return None
    cost = _object(transfer)
    if unknown := [axis for axis in AXES if not isinstance(cost.get(axis), int | float)]:
        raise UnknownCost(f"{transfer} does not tell the {' and '.join(unknown)} inherited")
    return {axis: float(cost[axis]) for axis in AXES}


def group(runs: Sequence[Run], labels: Sequence[str] | None = None) -> dict[str, list[Run]]:
    """Label -> the runs of that arm. ``labels``, one for each run, decide where they are given.

    Otherwise arms are called by the config's name, and by the keys that differ where several share one.
    """
    named: dict[str, list[Run]] = {}
    if labels:
        for run, label in zip(runs, labels, strict=True):
            named.setdefault(label, []).append(run)
        return named
    arms: list[list[Run]] = []
    for run in runs:
        own = next((arm for arm in arms if _are_seeds(arm[0], run)), None)
        own.append(run) if own else arms.append([run])
    for arm in arms:
        alike = [other[0] for other in arms if other[0].name == arm[0].name]
        label = arm[0].name + (f" ({_difference(arm[0], alike)})" if len(alike) > 1 else "")
        taken = sum(known == label or known.startswith(f"{label} #") for known in named)
        named[f"{label} #{taken + 1}" if taken else label] = arm
    return named


def notes(arms: Mapping[str, Sequence[Run]], metric: str) -> list[str]:
    """What a reader must know before believing the comparison, a sentence each."""
    found = []
    (first, (reference, *_)), *others = arms.items()
    for label, (run, *_) in others:
        if keys := _keys(reference, run):
            found.append(f"{label} differs from {first} in {_some(keys)}.")
    single = [label for label, runs in arms.items() if len(runs) == 1]
    if single:
        found.append(f"One seed of {_some(single)}: no interval, and a small difference may be chance.")
    every = [run for runs in arms.values() for run in runs]
    sections = (*MEANING, *(("sample",) if metric.startswith("quality/") else ()))
    free = [key for run in every for key in run.config if key not in sections]
    free += [key for key in FREE if key.startswith("data.")] + ["evaluate.batch"]
    lines = dict.fromkeys(line for run in every for line in differences(every[0].config, run.config, free))
    if lines:
        keys = dict.fromkeys(line.partition(":")[0] for line in lines)
        found.append(f"The metric may not mean the same in all runs, which differ in {_some(list(keys))}.")
    origins = [run.report["provenance"] for run in every if "provenance" in run.report]
    devices = dict.fromkeys(f"{origin.get('devices')} x {origin.get('device')}" for origin in origins)
    if len(devices) > 1:
        found.append(f"Seconds are of different devices: {', '.join(devices)}.")
    for label, runs in arms.items():
        seeds = [run.config.get("seed") for run in runs]
        if len(set(seeds)) < len(seeds):
            found.append(f"Runs of {label} share a seed: its interval is too narrow.")
        if any(not _are_seeds(runs[0], run) for run in runs):
            found.append(f"Runs of {label} differ in more than the seed.")
        if any(run.config.get("init_from") and run.inherited is None for run in runs):
            found.append(f"{label} starts from another run at a cost that is not known, and not counted.")
    return found


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found


def _unreadable(path: Path) -> int:
    """The number of the first line that is no object with a whole number as its step."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            if type(json.loads(line)["step"]) is not int:
                return number
        except (ValueError, KeyError, TypeError):
            return number
    raise AssertionError(path)


def _lineage(path: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The config of a run, of the run that it was started from, and so on; a path where that is not to be read."""
    found, seen = [config], {path.resolve()}
    while source := found[-1].get("init_from"):
        before = Path(source)
        if before.resolve() in seen or not (before / "config.json").is_file():
            return [*found, {"path": source}]
        seen.add(before.resolve())
        found.append(_object(before / "config.json"))
    return found


def _are_seeds(a: Run, b: Run) -> bool:
    """Whether two runs learn the same but for the seed, and so did the runs that they were started from."""
    return len(a.lineage) == len(b.lineage) and not any(
        differences(x, y, (*FREE, "init_from")) for x, y in zip(a.lineage, b.lineage, strict=True)
    )


def _keys(a: Run, b: Run) -> list[str]:
    """Dotted keys in which two runs differ other than seeds do."""
    return [line.partition(":")[0] for line in differences(a.config, b.config, FREE)]


def _difference(run: Run, alike: Sequence[Run]) -> str:
    """What tells a run from others of its name: "ratio=0.9, batch=64"."""
    lines = [line for other in alike for line in differences(other.config, run.config, FREE)]
    found: dict[str, str] = {}
    for line in lines:
        key, value = line.partition(":")[0], line.removesuffix(" now").rpartition(" in the workdir, ")[2].strip('"')
        found[key.removesuffix(".name").rpartition(".")[2]] = value if len(value) <= 24 else "…" + value[-23:]
    return ", ".join([f"{key}={value}" for key, value in found.items()][:3] + ["…"] * (len(found) > 3))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
