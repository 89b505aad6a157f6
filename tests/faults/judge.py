"""What a run is worth after a fault: its end against that of a run without one, and what was there at the fault.

Nothing here is the trainer's own code, which is on trial: checkpoints are read by Orbax alone, digests are made anew.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.faults.trainer import Outcome, steps_done, steps_saved

# Files of a checkpoint without a value of the user: Orbax's account of when and by what it was written, and the seal.
NOTES = ("_CHECKPOINT_METADATA", "commit_success.txt", "files.json")


class End(NamedTuple):
    """A finished run: SHA-256 of every array of its last checkpoint, the data position, and its metrics.

    ``lines``: those of metrics.jsonl as they stand, without the seconds. ``finite``: whether every array is.
    ``kept``: the steps of its checkpoints. ``report``: report.json without seconds and provenance.
    """

    leaves: dict[str, str]
    finite: bool
    position: dict[str, Any]
    lines: list[dict[str, Any]]
    kept: list[int]
    report: dict[str, Any]


class Left(NamedTuple):
    """What a fault left behind: digests {path below the workdir: SHA-256}, and the lines of metrics.jsonl.

    ``step``: steps done. ``sound``: steps of the checkpoints that the fault did not touch. ``damaged``: {step: the
    paths below the checkpoint that it did}.
    """

    step: int
    sound: list[int]
    damaged: dict[int, list[str]]
    digests: dict[str, str]
    lines: list[bytes]


class Verdict(NamedTuple):
    """``name``: ok, refused, wrong restore, silent loss or crash, and why. ``restart``: where the run went on.

    ``noticed``: the damage was named.
    """

    name: str
    why: str = ""
    restart: int | None = None
    noticed: bool = False


def end_of(workdir: Path) -> End:
    """Read what a finished run left. Raises whatever broken files provoke."""
    kept = steps_saved(workdir)
    newest = workdir / "checkpoints" / str(kept[-1])
    arrays = read_arrays(newest / "state")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((workdir / "report.json").read_text())
    return End(
        leaves={path: _array_digest(array) for path, array in arrays.items()},
        finite=all(np.isfinite(array).all() for array in arrays.values()),
        position=json.loads((newest / "record" / "metadata").read_text())["body"]["data"],
        lines=[{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        kept=kept,
        report={key: value for key, value in report.items() if key not in ("seconds", "provenance")},
    )


def left_in(workdir: Path, damaged: dict[int, list[str]]) -> Left:
    """Take stock of ``workdir``, after the fault and before the run goes on."""
    saved = steps_saved(workdir)
    return Left(
        step=max([steps_done(workdir), *saved]),
        sound=[step for step in saved if step not in damaged],
        damaged=damaged,
        digests=digests(workdir),
        lines=[line for line in _metrics(workdir) if line.endswith(b"\n")],
    )


def judge(reference: End, left: Left, outcome: Outcome, workdir: Path, skips: int = 0) -> Verdict:
    """The verdict on a run that went on after a fault, and had to skip ``skips`` steps for the data's sake.

    ``reference``: the end of the same run without a fault.
    """
    if outcome.status is None:
        return Verdict("crash", "it hung")
    if _trace(outcome.output):
        return Verdict("crash", "it printed a traceback")
    noticed = any(_named(step, outcome.output) for step in left.damaged)
    if outcome.status == 2:
        return _refusal(left, outcome, workdir)._replace(noticed=noticed)
    if outcome.status != 0:
        return Verdict("crash", f"exit status {outcome.status}")
    went_on = re.search(r", going on from step (\d+)", outcome.output)
    restart = int(went_on[1]) if went_on else 0
    if lost := next(_losses(left, restart, outcome.output, workdir), None):
        return Verdict("silent loss", lost, restart, noticed)
    try:
        end = end_of(workdir)
    except Exception as error:
        return Verdict("silent loss", f"its end cannot be read: {error!r}", restart, noticed)
    return _compare(reference, end, skips)._replace(restart=restart, noticed=noticed)


def one_line_of_refusal(outcome: Outcome) -> str | None:
    """What is wrong with a refusal, None where it is as it should be: status 2, and the last line says why."""
    if outcome.status is None:
        return "it hung"
    if _trace(outcome.output):
        return "it printed a traceback"
    lines = outcome.output.splitlines() or [""]
    if outcome.status != 2 or not lines[-1].startswith("error: "):
        return f"exit status {outcome.status}, and its last line is {lines[-1]!r}"
    return None


def read_arrays(state: Path) -> dict[str, np.ndarray]:
    """{path: array} of the folder ``state`` of a checkpoint."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax misses the sharding, which is of no interest here
    handler = ocp.PyTreeCheckpointHandler()
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(state).tree)
    tree = handler.restore(state, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def digests(folder: Path) -> dict[str, str]:
    """{path: SHA-256} of all files below ``folder``; a folder without files is ""."""
    paths = sorted(folder.rglob("*"))
    found = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}
    return found | {str(p.relative_to(folder)): "" for p in paths if p.is_dir() and not any(p.iterdir())}


def _refusal(left: Left, outcome: Outcome, workdir: Path) -> Verdict:
    if problem := one_line_of_refusal(outcome):
        return Verdict("crash", problem)
    if left.sound:
        return Verdict("crash", f"it refused, and checkpoint {left.sound[-1]} is sound")
    if not left.damaged:
        return Verdict("crash", "it refused without a checkpoint to go on from, though it could have begun again")
    after = digests(workdir)
    if changed := [path for path, digest in left.digests.items() if after.get(path) != digest]:
        return Verdict("silent loss", f"it refused, but changed {changed[0]}")
    return Verdict("refused")


def _losses(left: Left, restart: int, output: str, workdir: Path) -> Iterator[str]:
    """What the user had, and neither has nor was told of."""
    after = digests(workdir)
    for step, paths in left.damaged.items():
        of_value = [path for path in paths if path not in NOTES]
        if step >= restart and of_value and not _named(step, output):  # an older one is not looked at
            yield f"checkpoint {step} was damaged ({of_value[0]}) without a word"
        if _named(step, output):
            aside = f"checkpoints/damaged-{step}/"
            for path in _below(left.digests, f"checkpoints/{step}/"):
                if after.get(aside + path) != left.digests[f"checkpoints/{step}/{path}"]:
                    yield f"damaged checkpoint {step} was not kept as it was: {path}"
    usable = [*left.sound, *(step for step, paths in left.damaged.items() if not _named(step, output))]
    if restart != max(usable, default=0):
        yield f"it went on from step {restart}, though checkpoint {max(usable, default=0)} is sound"
    for step in left.sound:
        folder = f"checkpoints/{step}/"
        if f"checkpoints/damaged-{step}" in "\n".join(after):
            yield f"sound checkpoint {step} was set aside"
        changed = [p for p in _below(left.digests, folder) if after.get(folder + p) != left.digests[folder + p]]
        if changed and (workdir / "checkpoints" / str(step)).exists():
            yield f"sound checkpoint {step} was changed: {changed[0]}"
    for path, digest in left.digests.items():
        if path.startswith("mine/") and after.get(path) != digest:
            yield f"the user's own file {path} is gone or changed"
    # A run that begins again at step 0 writes its first line again, too.
    before = [line for line in left.lines if restart and json.loads(line)["step"] <= restart]
    if (lines := _metrics(workdir))[: len(before)] != before:
        i = next(i for i, line in enumerate(before) if i >= len(lines) or lines[i] != line)
        yield f"line {i + 1} of metrics.jsonl, of step {json.loads(before[i])['step']}, is gone or was written again"


def _compare(reference: End, end: End, skips: int) -> Verdict:
    if not end.finite:
        return Verdict("wrong restore", "arrays of the last checkpoint are not finite")
    if (skipped := end.lines[-1].get("train/skipped_total")) != skips:
        return Verdict("wrong restore", f"{skipped} steps were skipped, not {skips}")
    differing = [
        path
        for path in sorted(reference.leaves.keys() | end.leaves.keys())
        if reference.leaves.get(path) != end.leaves.get(path)
    ]
    if differing:
        return Verdict("wrong restore", f"{len(differing)} arrays differ, as {differing[0]}")
    if end.position != reference.position:
        return Verdict("wrong restore", f"the data position is {end.position}, not {reference.position}")
    if missing := [step for step in reference.kept if step not in end.kept]:
        return Verdict("silent loss", f"checkpoint {missing[0]} is gone")
    steps, expected = ([line["step"] for line in lines] for lines in (end.lines, reference.lines))
    if gaps := [step for step in expected if step not in steps]:
        return Verdict("silent loss", f"metrics.jsonl has no line of step {gaps[0]}")
    if steps != expected:
        twice = next((step for step in steps if steps.count(step) > 1), steps)
        return Verdict("wrong restore", f"metrics.jsonl has lines that are too many: {twice}")
    if changed := [a["step"] for a, b in zip(end.lines, reference.lines, strict=True) if a != b]:
        return Verdict("wrong restore", f"line of step {changed[0]} of metrics.jsonl differs")
    if end.report != reference.report:
        return Verdict("wrong restore", "report.json differs")
    return Verdict("ok")


def _named(step: int, output: str) -> bool:
    return re.search(rf"checkpoint {step} is damaged: |[(;] ?{step}: ", output) is not None


def _trace(output: str) -> bool:
    return "Traceback" in output or "Exception ignored" in output


def _below(paths: dict[str, str], folder: str) -> list[str]:
    return [path.removeprefix(folder) for path in paths if path.startswith(folder)]


def _metrics(workdir: Path) -> list[bytes]:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _array_digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
