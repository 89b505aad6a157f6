"""The equal-compute report: a metric of several runs against steps, analytic FLOPs and seconds, side by side.

    python -m maskdiff_jax.compare --runs runs/masked runs/dense [...] --out=DIR [--metric=heldout_ema/loss]

reads config.json and metrics.jsonl of every workdir, writes DIR/compare.png, compare.md and compare.json, and prints
the Markdown. Runs that differ only in the seed, or in what does not change learning, are seeds of one arm. Pre-training
that a run inherited (transfer.json) counts, unless --sunk. Bad input ends in one line and exit status 2.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from maskdiff_jax.evaluate import curves
from maskdiff_jax.evaluate.curves import AXES, UNITS, Comparison, Curve
from maskdiff_jax.train.files import read_json, write_atomically, write_json
from maskdiff_jax.train.workdir import differences
from maskdiff_jax.train.writers import read_jsonl

FILES = ("compare.png", "compare.md", "compare.json")
HIGHER = ("accuracy", "class_accuracy", "judge_accuracy", "precision", "recall", "density", "coverage")
# Keys in which the seeds of an arm may differ: the seed, and what a run may change when it goes on.
FREE = ("seed", "name", "log", "profile", "sample", "evaluate", "resident")
FREE += ("data.data_dir", "data.download", "data.path")
MEANING = ("evaluate", "data", "codec", "process", "shift")  # sections that a held-out metric depends on
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito


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
    lines, transfer, inherited = path / "metrics.jsonl", path / "transfer.json", None
    if transfer.is_file():
        cost = _object(transfer)
        unknown = [axis for axis in AXES if not isinstance(cost.get(axis), int | float)]
        if unknown and not sunk:
            raise ValueError(
                f"{transfer} does not tell the {' and '.join(unknown)} inherited: leave them out by --sunk"
            )
        inherited = None if unknown else {axis: float(cost[axis]) for axis in AXES}
    try:
        rows = read_jsonl(lines)
        if not all(type(row["step"]) is int for row in rows):
            raise TypeError("a step is a whole number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{lines}, line {_unreadable(lines)}: not a JSON object with a step") from error
    try:
        curve = curves.curve_of(rows, metric, None if sunk else inherited)
    except ValueError as error:
        raise ValueError(f"{lines}: {error}") from error
    report = _object(path / "report.json") if (path / "report.json").is_file() else {}
    return Run(path, _lineage(path, _object(path / "config.json")), curve, inherited, report)


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


def draw(arms: Mapping[str, Sequence[Curve]], result: Comparison, metric: str, higher: bool) -> bytes:
    """The curves as a PNG, a panel for each axis: seeds thin, their mean thick, an arm's mean best a dot.

    With two arms, a dotted line leads from the best of one to where the other reaches it.
    """
    from matplotlib.figure import Figure  # takes a while to import
    from matplotlib.ticker import EngFormatter, LogLocator, StrMethodFormatter

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    every = [curve for found in arms.values() for curve in found]
    longest = max(curve.cost["seconds"][-1] for curve in every)
    unit, seconds = next((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if longest >= 3 * s or s == 1)
    names = {"steps": "steps", "flops": "training FLOPs (analytic)", "seconds": f"training time ({unit})"}
    for panel, (axis, name) in zip(panels, names.items(), strict=True):
        scale = seconds if axis == "seconds" else 1
        ends = [curve.cost[axis][-1] for curve in every]
        wide = max(ends) > 5 * min(ends) > 0
        for i, (label, found) in enumerate(arms.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}
            lines = [(curve.cost[axis], curve.value, {"linewidth": 0.8, "alpha": 0.45}) for curve in found]
            lines = [*(lines if len(found) > 1 else []), (*curves.mean_curve(found, axis), {"label": label, "lw": 2})]
            for cost, value, width in lines:
                shown = cost > 0 if wide else cost >= 0  # a logarithmic axis has no 0
                panel.plot(cost[shown] / scale, value[shown], **style, **width)
            top = result.best[label]
            panel.plot(top.cost[axis] / scale, top.value.mean, "o", ms=7, color=style["color"], mec="white", zorder=3)
        for pair in result.pairs if len(arms) == 2 else []:
            start, stop = pair.axes[axis].cost, pair.axes[axis].reference
            if start is not None:
                ends, colour = [start / scale, stop / scale], COLOURS[list(arms).index(pair.other)]
                panel.plot(ends, [pair.level] * 2, ":|", linewidth=1.2, markersize=9, markevery=[0], color=colour)
        if wide:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        else:
            panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}") if axis == "seconds" else EngFormatter(sep=""))
        panel.xaxis.minorticks_off()
        panel.set_xlabel(name)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{metric}, {'higher' if higher else 'lower'} is better")
    panels[0].set_ylim(*_limits(every, higher))
    columns = max(1, min(len(arms), 150 // max(map(len, arms))))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def report(arms: Mapping[str, Sequence[Run]], metric: str, higher: bool, sunk: bool, folder: Path) -> str:
    """Compare the arms and write the three files into ``folder``; returns the Markdown."""
    lines = {label: [run.curve for run in runs] for label, runs in arms.items()}
    result = curves.compare(lines, higher)
    sentences = curves.verdict(result) or ["All runs are seeds of one arm: there is nothing to compare it with."]
    warnings = notes(arms, metric)
    started = any(run.inherited for runs in arms.values() for run in runs)
    counted = "leave out (--sunk) what a run inherited" if sunk else "include what a run inherited (--sunk: not)"
    about = [
        f"{'Higher' if higher else 'Lower'} is better.",
        f"Costs {counted}." if started else "No run inherited anything.",
        "± is the 95 % interval over seeds; a factor above 1 is cheaper; curves are linear between measurements, and",
        "before a run's end its learning rate may not have decayed yet.",
    ]
    inherited = {label: _inherited(runs, sunk) for label, runs in arms.items()}
    blocks = [f"# {metric} at equal compute", "\n".join(about), curves.tables(result, inherited)]
    blocks.append("![Seeds thin, their mean thick, an arm's mean best a dot](compare.png)")
    blocks += ["\n".join(f"- {line}" for line in sentences)]
    if warnings:
        blocks.append("Notes:\n\n" + "\n".join(f"- {line}" for line in warnings))
    text = "\n\n".join(blocks) + "\n"
    data = {
        "settings": {"metric": metric, "better": "higher" if higher else "lower", "sunk": sunk},
        "files": {"picture": FILES[0], "text": FILES[1]},
        "arms": {label: [_run_data(run, folder) for run in runs] for label, runs in arms.items()},
        "result": _by_name(result),
        "verdict": sentences,
        "notes": warnings,
    }
    write_atomically(folder / FILES[0], draw(lines, result, metric, higher))
    write_atomically(folder / FILES[1], text.encode())
    write_json(folder / FILES[2], data)
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = _Parser(prog="python -m maskdiff_jax.compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", nargs="+", required=True, type=Path, metavar="WORKDIR", help="two or more workdirs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"folder for {', '.join(FILES)}")
    parser.add_argument("--metric", default="heldout_ema/loss", help="a key of metrics.jsonl [%(default)s]")
    parser.add_argument("--higher", action="store_true", help=f"more is better; so it is for {', '.join(HIGHER)}")
    parser.add_argument("--sunk", action="store_true", help="leave out what pre-training had cost")
    parser.add_argument("--label", nargs="+", metavar="NAME", help="an arm's name for each run; the same one for seeds")
    options = parser.parse_args(argv)
    try:
        paths = list(dict.fromkeys(path.resolve() for path in options.runs))
        if len(paths) < 2 or len(paths) < len(options.runs):
            parser.error(f"--runs: two or more different workdirs, got {', '.join(map(str, options.runs))}")
        if options.label and len(options.label) != len(options.runs):
            parser.error(f"--label: a name for each of the {len(options.runs)} runs, got {len(options.label)}")
        if there := [name for name in FILES if (options.out / name).exists()]:
            parser.error(f"--out: {options.out} has {' and '.join(there)} already; name another folder")
        runs = [read_run(path, options.metric, options.sunk) for path in options.runs]
        higher = options.higher or options.metric.rpartition("/")[2] in HIGHER
        print(report(group(runs, options.label), options.metric, higher, options.sunk, options.out), end="")
    except (ValueError, OSError) as error:
        parser.error(str(error))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit status 2."""
        self.exit(2, f"error: {message}\n")


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


def _inherited(runs: Sequence[Run], sunk: bool) -> str:
    found = [run.inherited for run in runs if run.inherited]
    if not found:
        return "–"
    means = [curves.number(sum(cost[axis] for cost in found) / len(found)) + f" {unit}" for axis, unit in UNITS.items()]
    return ", ".join(means) + (", left out" if sunk else "")


def _limits(found: Sequence[Curve], higher: bool) -> tuple[float, float]:
    """What the panels show: all but the worst tenth of the values, as the first ones would flatten the rest."""
    sign = -1 if higher else 1
    values = [sign * curve.value[np.isfinite(curve.value)] for curve in found]
    low = min(value.min() for value in values)
    high = max(np.quantile(np.concatenate(values), 0.9), *(np.median(value) for value in values))
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    low, high = sorted((sign * (low - margin), sign * (high + margin)))
    return float(low), float(high)


def _run_data(run: Run, folder: Path) -> dict[str, Any]:
    where = os.path.relpath(run.path, folder)
    measured = run.curve.cost | {"value": run.curve.value}
    known = {"name": run.name, "seed": run.config.get("seed"), "provenance": run.report.get("provenance")}
    return {"workdir": where, **known, "inherited": run.inherited, "curve": measured}


def _by_name(value: Any) -> Any:
    """Named tuples as objects, at any depth."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _by_name(item) for key, item in value.items()}
    return [_by_name(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
