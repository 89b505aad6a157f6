"""Runs of an experiment: arms and seeds, each a command of the trainer in a workdir of its own, begun or continued."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Run(NamedTuple):
    """One training run: its workdir, and the arguments of ``python -m maskdiff_jax.main`` but for ``--workdir``."""

    workdir: Path
    arguments: tuple[str, ...]


def seeds(arm: Path, arguments: Sequence[str], count: int) -> list[Run]:
    """The runs of one arm, in ``arm``/seed_0, seed_1, …"""
    return [Run(arm / f"seed_{seed}", (*arguments, f"--config.seed={seed}")) for seed in range(count)]


def execute(runs: Iterable[Run]) -> None:
    """Train what has no report yet, one after the other; a run that was interrupted goes on where it stopped.

    Ends the program with the trainer's own status where it fails: its line is on stderr.
    """
    for run in runs:
        if (run.workdir / "report.json").exists():
            print(f"{run.workdir}: finished", flush=True)
            continue
        print(f"{run.workdir}: {' '.join(run.arguments)}", flush=True)
        command = [sys.executable, "-m", "maskdiff_jax.main", *run.arguments, f"--workdir={run.workdir}"]
        if status := subprocess.run(command).returncode:
            sys.exit(status)


def compare(runs: Iterable[Run], metric: str, out: Path, *options: str) -> None:
    """The equal-compute report of finished runs, in place of an earlier one."""
    for path in out.glob("compare.*"):
        path.unlink()
    workdirs = [str(run.workdir) for run in runs]
    command = [sys.executable, "-m", "maskdiff_jax.compare", "--runs", *workdirs, f"--metric={metric}", f"--out={out}"]
    if status := subprocess.run([*command, *options]).returncode:
        sys.exit(status)


def report(run: Run) -> dict[str, Any]:
    """The final report of a finished run."""
    return json.loads((run.workdir / "report.json").read_text(encoding="utf-8"))
