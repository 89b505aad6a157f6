"""The equal-compute report: a metric of several runs against steps, analytic FLOPs and seconds, side by side.

    python -m maskdiff_jax.compare --runs runs/masked runs/dense [...] --out=DIR [--metric=heldout_ema/loss]

reads config.json and metrics.jsonl of every workdir, writes DIR/compare.png, compare.md and compare.json, and prints
the Markdown. Runs that differ only in the seed, or in what does not change learning, are seeds of one arm. Pre-training
that a run inherited (transfer.json) counts, unless --sunk. Bad input ends in one line and exit status 2.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from maskdiff_jax.evaluate.better import HIGHER
from maskdiff_jax.evaluate.curves import UNITS, compare
from maskdiff_jax.evaluate.curves_picture import draw
from maskdiff_jax.evaluate.curves_runs import Run, group, notes, read_run
from maskdiff_jax.evaluate.curves_text import number, tables, verdict
from maskdiff_jax.train.files import write_atomically, write_json

FILES = ("compare.png", "compare.md", "compare.json")


def report(arms: Mapping[str, Sequence[Run]], metric: str, higher: bool, sunk: bool, folder: Path) -> str:
    """Compare the arms and write the three files into ``folder``; returns the Markdown."""
    lines = {label: [run.curve for run in runs] for label, runs in arms.items()}
    result = compare(lines, higher)
    sentences = verdict(result) or ["All runs are seeds of one arm: there is nothing to compare it with."]
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
    blocks = [f"# {metric} at equal compute", "\n".join(about), tables(result, inherited)]
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


def _inherited(runs: Sequence[Run], sunk: bool) -> str:
    found = [run.inherited for run in runs if run.inherited]
    if not found:
        return "–"
    means = [number(sum(cost[axis] for cost in found) / len(found)) + f" {unit}" for axis, unit in UNITS.items()]
    return ", ".join(means) + (", left out" if sunk else "")


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
