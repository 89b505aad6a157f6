"""Real faults against the real trainer, and what became of each run.

    python -m tests.faults --n=100 [--seed=0] [--only=kill,flip] [--keep=DIR]

After each fault the same command is given again, and the end is compared, bit for bit, with that of a run that nothing
disturbed. Writes DIR/faults.json, and keeps the workdirs of the runs that were not right. Exit status 1 where a restore
was wrong, anything was lost in silence, or the program crashed or hung.

- ok: the run finished, and arrays, data position and metrics are those of the reference
- refused: the program said in one line that it cannot go on, and left everything as it was
- wrong restore: it finished, and anything differs
- silent loss: what the user had is gone, or a damaged checkpoint was not named
- crash: a traceback, a hang, a refusal without need, or another exit status than 0 and 2

"hit": faults that came about, as a process may end before it is killed. "unnoticed": damage to files without a value
of the user, which changes nothing and may pass without a word. "lost": steps that had to be taken again; up to one
interval of 5 between checkpoints, and those that were taken while the last one was being written, at most another 5.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.judge import Verdict, judge, left_in, one_line_of_refusal
from tests.faults.kinds import KINDS, Scene
from tests.faults.runs import Runs

BAD = {"wrong restore": "wrong restores", "silent loss": "silent losses", "crash": "crashes"}
COLUMNS = ("faults", "hit", "ok", "refused", *BAD.values(), "unnoticed", "median lost", "max lost")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Real faults against the real trainer.")
    parser.add_argument("--n", type=int, default=100, help="number of faults, of all kinds in turn [100]")
    parser.add_argument("--seed", type=int, default=0, help="of what is random about them [0]")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of faults [all]")
    parser.add_argument("--keep", type=Path, help="folder for faults.json and the workdirs of bad ends")
    options = parser.parse_args(arguments)
    kinds = options.only.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--only: unknown {unknown[0]!r}; choose from {', '.join(KINDS)}")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        found = campaign(Path(folder), [kinds[i % len(kinds)] for i in range(options.n)], options.seed, options.keep)
    print(f"\n{table(found)}\n{len(found)} faults in {(time.monotonic() - begun) / 60:.1f} minutes")
    if options.keep:
        summary = {kind: summarise(found, kind) for kind in dict.fromkeys(kinds)}
        options.keep.mkdir(parents=True, exist_ok=True)
        content = {"seed": options.seed, "seconds": time.monotonic() - begun, "kinds": summary, "faults": found}
        (options.keep / "faults.json").write_text(json.dumps(content, indent=1) + "\n")
    return int(any(row["verdict"] in BAD for row in found))


def campaign(folder: Path, kinds: list[str], seed: int = 0, keep: Path | None = None) -> list[dict[str, Any]]:
    """Do the faults ``kinds`` in turn, below ``folder``; one row for each of them."""
    runs, found = Runs(folder / "runs"), []
    for number, kind in enumerate(kinds):
        place = folder / f"{number:04}-{kind}"
        place.mkdir()
        row = {"number": number, "kind": kind} | one(kind, Random(f"{seed} {kind} {number}"), place, runs, keep)
        found.append(row)
        print(f"{place.name}: {row['verdict']}  {row['why']}", flush=True)
        shutil.rmtree(place)
    return found


def one(kind: str, random: Random, place: Path, runs: Runs, keep: Path | None = None) -> dict[str, Any]:
    """One fault of a kind, the same command again, and the verdict."""
    runs.half  # noqa: B018  (which the first fault would wait for)
    begun = time.monotonic()
    with ExitStack() as after:
        after.callback(runs.stop)
        fault = KINDS[kind](Scene(random, place, runs, after))
        left = left_in(fault.workdir, fault.damaged)
        problem = one_line_of_refusal(fault.refusal) if fault.hit and fault.refusal else None
        outcome = runs.start(fault.command, fault.workdir).finish()
        verdict = judge(runs.reference(fault.command)[1], left, outcome, fault.workdir, fault.command.skips)
        if problem and verdict.name not in BAD:
            verdict = Verdict("crash", f"at the fault: {problem}", verdict.restart)
        if keep and verdict.name in BAD:
            shutil.copytree(place, keep / place.name, ignore=shutil.ignore_patterns("filler"), dirs_exist_ok=True)
            output = fault.refusal.output if fault.refusal else ""
            (keep / place.name / "output.txt").write_text(f"{output}\n---- the same command again:\n{outcome.output}")
    return {
        "hit": fault.hit,
        "verdict": verdict.name,
        "why": verdict.why,
        "damaged": left.damaged,
        "noticed": verdict.noticed,
        "step": left.step,
        "restart": verdict.restart,
        "seconds": time.monotonic() - begun,
    }


def summarise(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The row of the table of one kind."""
    rows = [row for row in found if row["kind"] == kind]
    lost = [row["step"] - row["restart"] for row in rows if row["hit"] and row["restart"] is not None]
    verdicts = [row["verdict"] for row in rows]
    return {
        "faults": len(rows),
        "hit": sum(row["hit"] for row in rows),
        "ok": verdicts.count("ok"),
        "refused": verdicts.count("refused"),
        **{plural: verdicts.count(verdict) for verdict, plural in BAD.items()},
        "unnoticed": sum(bool(row["damaged"]) and not row["noticed"] for row in rows),
        "median lost": statistics.median(lost) if lost else None,
        "max lost": max(lost, default=None),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The campaign in words: a line for each kind."""
    kinds = list(dict.fromkeys(row["kind"] for row in found))
    lines = [f"{'kind':12}" + "".join(f"{name:>15}" for name in COLUMNS)]
    for kind in kinds:
        values = summarise(found, kind)
        lines.append(f"{kind:12}" + "".join(f"{'-' if values[c] is None else values[c]:>15}" for c in COLUMNS))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
