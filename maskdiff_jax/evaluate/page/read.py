"""What a workdir holds that a report can show. Everything but config.json may be missing, or not be readable."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.writers import read_jsonl

STEP = re.compile(r"step_(\d+)\.png")


class Evaluation(NamedTuple):
    """One set of features of one set of samples: an entry of ``results`` in evaluations/<name>/metrics.json."""

    name: str
    settings: dict[str, Any]
    features: dict[str, Any]
    num: Any
    values: dict[str, Any]
    rate: Any
    created: str


class Run(NamedTuple):
    """A workdir. ``rows`` of metrics.jsonl are sorted by step; ``grids`` {step: picture of samples}; ``pictures``
    {path inside the workdir: file}; ``written``: when the newest figures were; ``damaged``: a line for each file that
    cannot be read. What is absent is empty.
    """

    name: str
    config: dict[str, Any]
    defaults: dict[str, Any] | None
    rows: list[dict[str, Any]]
    report: dict[str, Any]
    evaluations: list[Evaluation]
    diagnostics: dict[str, Any]
    grids: dict[int, Path]
    pictures: dict[str, Path]
    written: datetime
    damaged: list[str]

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        ends = [number(row["step"]) for row in self.rows[-1:]] + [number(self.report.get("steps"))]
        return int(max(filter(math.isfinite, ends), default=0))

    def last(self, key: str) -> float:
        """The last entry of ``key`` in metrics.jsonl; NaN where there is none."""
        return next((number(row[key]) for row in reversed(self.rows) if key in row), math.nan)

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps [n] and values [n] of a metric, NaN where it was not finite."""
        found = [(row["step"], number(row[key])) for row in self.rows if key in row]
        steps, values = np.array(found, np.float64).reshape(-1, 2).T
        return steps, np.where(np.isfinite(values), values, np.nan)


def read_run(workdir: Path, defaults: Mapping[str, Any] | None = None) -> Run:
    """The run in ``workdir``. Raises ValueError, in one line, where there is no config.json or it is no JSON object."""
    if not (workdir / "config.json").is_file():
        raise ValueError(f"{workdir} is not a run: it has no config.json")
    config = _object(workdir / "config.json")
    damaged: list[str] = []

    def maybe(name: str, read: Callable[[Path], Any], otherwise: Any) -> Any:
        path = workdir / name
        if not path.is_file():
            return otherwise
        try:
            return read(path)
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged.append(f"{name} cannot be read.")
            return otherwise

    rows = maybe("metrics.jsonl", _rows, [])
    report = maybe("report.json", _object, {})
    folders = sorted(path.parent for path in workdir.glob("evaluations/*/metrics.json"))
    evaluations = [e for folder in folders for e in maybe(f"evaluations/{folder.name}/metrics.json", _evaluations, [])]
    pictures = sorted(
        path for place in ("samples", "diagnostics", "evaluations/*") for path in workdir.glob(f"{place}/*.png")
    )
    grids = {int(match[1]): path for path in pictures if (match := STEP.fullmatch(path.name))}
    newest = max(
        path.stat().st_mtime for name in ("config.json", "metrics.jsonl") if (path := workdir / name).is_file()
    )
    return Run(
        name=str(report.get("name") or config.get("name") or workdir.resolve().name),
        config=config,
        defaults=None if defaults is None else dict(defaults),
        rows=rows,
        report=report,
        evaluations=sorted(evaluations, key=lambda evaluation: evaluation.created),
        diagnostics=maybe("diagnostics.json", _object, {}),
        grids=dict(sorted(grids.items())),
        pictures={path.relative_to(workdir).as_posix(): path for path in pictures if path not in grids.values()},
        written=datetime.fromtimestamp(int(newest), UTC),
        damaged=damaged,
    )


def number(value: Any) -> float:
    """A number as a file holds it: null is NaN, and so is what is no number; "nan" and "inf" are read back."""
    if is_number(value) or value in ("nan", "inf", "-inf"):
        return float(value)
    return math.nan


def numbers(values: Any) -> np.ndarray:
    """A list of numbers [n]; one number is a list of one."""
    entries = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    return np.array([number(value) for value in entries], np.float64)


def records(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list, where it is one."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """The object, where it is one; empty otherwise."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(path)
    if not all(type(row["step"]) is int for row in rows):
        raise ValueError("a step is a whole number")
    return sorted(rows, key=lambda row: row["step"])


def _evaluations(path: Path) -> list[Evaluation]:
    found = _object(path)
    settings = dict(found["settings"])
    return [
        Evaluation(
            name=path.parent.name,
            settings=settings,
            features=dict(result["features"]),
            num=result.get("num"),
            values=dict(result["values"]),
            rate=result.get("images_per_second"),
            created=str(result.get("created", "")),
        )
        for result in found["results"]
    ]
