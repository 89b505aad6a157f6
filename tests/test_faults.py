"""Faults against the trainer in short (``python -m tests.faults`` is the campaign), and that their judge can fail."""

import json
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from random import Random

import jax
import numpy as np
import pytest

from maskdiff_jax.data import Batches, DataError
from maskdiff_jax.train.checkpoint import Checkpoints
from tests.cli import here
from tests.faults.judge import Left, digests, end_of, judge, left_in, one_line_of_refusal, read_arrays
from tests.faults.kinds import Scene, full_disk, mounted
from tests.faults.poison import IMAGES, Poison, poisoned
from tests.faults.runs import Runs
from tests.faults.runs import poisoned as poisoned_command
from tests.faults.trainer import BATCH, INTERVAL, STEPS, Outcome, steps_done, steps_saved

FINE = Outcome(0, "digits in run, going on from step 30\n")


def edit_lines(workdir: Path, edit) -> None:
    path = workdir / "metrics.jsonl"
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, compiled_once):
    """Runs whose data hold a NaN: so all faults come on top of skipped steps."""
    folder = tmp_path_factory.mktemp("faults")
    command = poisoned_command(Poison(3, "nan"), folder)
    cheap = {  # little is compiled, and only the first time
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    runs = Runs(folder / "runs", command, cheap)
    with pytest.MonkeyPatch.context() as patch:  # in this process, which has started already, on one device as theirs
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: one)
        workdir = runs.new(folder / "reference")
        assert here(*command.arguments, f"--workdir={workdir}") == 0
    runs.references[command] = workdir, end_of(workdir)
    runs.half = shutil.copytree(runs.reference()[0], folder / "half")  # as if it had been killed at step 33
    for name in ("checkpoints/35", "checkpoints/40"):
        shutil.rmtree(runs.half / name)
    edit_lines(runs.half, lambda lines: lines[:34])
    return runs


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    """A finished run without a fault."""
    return shutil.copytree(runs.reference()[0], tmp_path / "run")


def before(workdir: Path, restart: int = 30, damaged: tuple[int, ...] = ()) -> Left:
    """A finished run as a fault might have left it: with checkpoints up to ``restart``, and later ones damaged."""
    left = left_in(workdir, {step: ["state/_METADATA"] for step in damaged})
    return left._replace(step=restart, sound=[step for step in left.sound if step <= restart])


@pytest.mark.parametrize("poison", [Poison(3, "nan"), Poison(50, "-inf")])
def test_the_poison_is_in_one_pixel_and_in_as_many_batches_as_said(poison, tmp_path):
    poison.put(tmp_path / "poison")
    source = poisoned(str(tmp_path / "poison")).train
    images = source.fetch(np.arange(IMAGES))["image"]
    assert np.argwhere(~np.isfinite(images)).tolist() == [[poison.index, 3, 4, 0]]
    stream = Batches(source, BATCH, seed=0)
    found = sum(not np.isfinite(next(stream)["image"]).all() for _ in range(STEPS))
    stream.close()
    assert found == poison.batches(BATCH, STEPS) > 1


def test_what_is_no_poison_is_refused(tmp_path):
    for content in ("64 nan", "3 1.5", "3"):
        (tmp_path / "poison").write_text(content)
        with pytest.raises(DataError, match="poison"):
            poisoned(str(tmp_path / "poison"))


def test_a_run_survives_a_full_disk_and_then_flipped_bits(runs, tmp_path, capsys, one_device):
    """The disk of a real process; a bit of every checkpoint but the oldest. What is left goes on in this process."""
    (tmp_path / "disk").mkdir()
    with ExitStack() as after:
        after.callback(runs.stop)
        fault = full_disk(Scene(Random(1), tmp_path / "disk", runs, after))
        assert fault.hit and fault.refusal is not None and one_line_of_refusal(fault.refusal) is None
        assert "No space left on device" in fault.refusal.output or "File too large" in fault.refusal.output
        oldest, *others = steps_saved(fault.workdir)
        assert others and steps_done(fault.workdir) - others[-1] <= 2 * INTERVAL
        damaged = {}
        for step in others:
            checkpoint = fault.workdir / "checkpoints" / str(step)
            file = max((checkpoint / "state").rglob("*"), key=lambda path: path.stat().st_size)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
            damaged[step] = [str(file.relative_to(checkpoint))]
        left = left_in(fault.workdir, damaged)
        status = here(*fault.command.arguments, f"--workdir={fault.workdir}")
        outcome = Outcome(status, "".join(capsys.readouterr()))
        verdict = judge(runs.reference()[1], left, outcome, fault.workdir, fault.command.skips)
    assert (verdict.name, verdict.restart, verdict.noticed) == ("ok", oldest, True), verdict


def test_a_workdir_that_cannot_be_written_ends_in_one_line(runs, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    with ExitStack() as after:
        if not mounted(tmp_path / "disk", "64m", after):
            pytest.skip("mounting is not allowed here")
        workdir = shutil.copytree(runs.half, tmp_path / "disk" / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        untouched = digests(workdir)
        assert here(*runs.command.arguments, f"--workdir={workdir}") == 2
        assert digests(workdir) == untouched
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and "Read-only file system" in error and str(workdir) in error


@pytest.mark.parametrize("content, said", [("3 inf", "fingerprint|is not the data"), (None, "No such file .*data")])
def test_data_that_changed_or_vanished_before_a_restart_are_named_and_nothing_is_lost(
    content, said, runs, tmp_path, capsys
):
    """The refused run keeps the lines of metrics.jsonl that are beyond its newest checkpoint, too."""
    workdir, data = shutil.copytree(runs.half, tmp_path / "run"), tmp_path / "data"
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    shutil.rmtree(newest)
    if content is not None:
        data.write_text(content)
    untouched = digests(workdir)
    assert here(*runs.command.arguments, f"--config.data.path={data}", f"--workdir={workdir}") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and re.search(said, error)
    assert digests(workdir) == untouched


def test_the_judge_lets_a_sound_run_pass(runs, copy):
    assert judge(runs.reference()[1], before(copy), FINE, copy, runs.command.skips).name == "ok"


def another_state(workdir: Path) -> None:
    """A sound checkpoint of other numbers in the place of the last one."""
    folder = workdir / "checkpoints"
    arrays = read_arrays(folder / str(STEPS) / "state")
    position = end_of(workdir).position
    shutil.rmtree(folder / str(STEPS))
    checkpoints = Checkpoints(folder, keep_latest=9)
    state = {path: array + array.dtype.type(path.endswith("['kernel']")) for path, array in arrays.items()}
    checkpoints.save(STEPS, jax.device_put(state), position, {}, wait=True)
    checkpoints.close()


def other_norm(lines: list[str], step: int) -> list[str]:
    row = json.loads(lines[step])
    row["train/param_norm"] += 1e-6
    return [*lines[:step], f"{json.dumps(row)}\n", *lines[step + 1 :]]


DOCTORED = {  # what was done to a sound run: the verdict
    "another state": (another_state, "wrong restore", "arrays differ"),
    "a line is gone": (lambda w: edit_lines(w, lambda lines: lines[:35] + lines[36:]), "silent loss", "no line of"),
    "an old line is gone": (lambda w: edit_lines(w, lambda lines: lines[1:]), "silent loss", "is gone or was"),
    "a line twice": (lambda w: edit_lines(w, lambda lines: [*lines, lines[-1]]), "wrong restore", "too many"),
    "another norm": (lambda w: edit_lines(w, lambda lines: other_norm(lines, 38)), "wrong restore", "line of step 38"),
    "another old norm": (lambda w: edit_lines(w, lambda lines: other_norm(lines, 20)), "silent loss", "written again"),
    "a kept checkpoint is gone": (lambda w: shutil.rmtree(w / "checkpoints" / "35"), "silent loss", "35 is gone"),
    "a sound checkpoint was set aside": (
        lambda w: (w / "checkpoints" / "15").rename(w / "checkpoints" / "damaged-15"),
        "silent loss",
        "checkpoint 15 was set aside",
    ),
    "a note is gone": (lambda w: (w / "mine" / "notes.txt").unlink(), "silent loss", "mine/notes.txt"),
    "no report": (lambda w: (w / "report.json").unlink(), "silent loss", "cannot be read"),
}


@pytest.mark.parametrize("case", DOCTORED)
def test_the_judge_notices_what_was_doctored(case, runs, copy):
    doctor, name, why = DOCTORED[case]
    left = before(copy)
    doctor(copy)
    verdict = judge(runs.reference()[1], left, FINE, copy, runs.command.skips)
    assert verdict.name == name and why in verdict.why, verdict


OUTPUTS = {  # what the run said: the verdict, with checkpoint 35 damaged
    "nothing about the damage": ("going on from step 30\n", 0, "silent loss", "35 was damaged"),
    "the damage, and it is gone": ("checkpoint 35 is damaged: x; using 30\n", 0, "silent loss", "not kept as it was"),
    "that it went on from too far back": ("run, going on from step 15\n", 0, "silent loss", "checkpoint 30 is sound"),
    "a refusal without need": ("error: no checkpoint is sound\n", 2, "crash", "30 is sound"),
    "no line for its refusal": ("sorry\n", 2, "crash", "its last line is"),
    "a traceback": ("Traceback (most recent call last):\nrun, going on from step 30\n", 0, "crash", "traceback"),
    "nothing at all": ("", None, "crash", "hung"),
    "a signal": ("", -11, "crash", "exit status -11"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_judge_listens_to_what_a_run_says(case, runs, copy):
    output, status, name, why = OUTPUTS[case]
    left = before(copy, damaged=(35,) if "far back" not in case else ())
    if "it is gone" in case:
        shutil.rmtree(copy / "checkpoints" / "35")
    verdict = judge(runs.reference()[1], left, Outcome(status, output), copy, runs.command.skips)
    assert verdict.name == name and why in verdict.why, verdict


def test_damage_in_checkpoints_that_are_not_read_may_go_unnoticed(runs, copy):
    left = before(copy, restart=35, damaged=(15, 30))
    said = Outcome(0, "run, going on from step 35\n")
    assert judge(runs.reference()[1], left, said, copy, runs.command.skips).name == "ok"
    seal = before(copy)._replace(damaged={30: ["files.json"]}, sound=[15])
    assert judge(runs.reference()[1], seal, FINE, copy, runs.command.skips).name == "ok"


def test_a_refusal_may_change_nothing(runs, copy):
    said = Outcome(2, "error: no checkpoint in x is sound (40: a; 35: b; 30: c; 15: d)\n")
    left = left_in(copy, {step: ["record"] for step in (15, 30, 35, 40)})
    assert judge(runs.reference()[1], left, said, copy).name == "refused"
    (copy / "parameters.txt").write_text("")
    assert judge(runs.reference()[1], left, said, copy).name == "silent loss"


def test_skips_are_counted(runs, copy):
    verdict = judge(runs.reference()[1], before(copy), FINE, copy, runs.command.skips + 1)
    assert verdict.name == "wrong restore" and "skipped" in verdict.why
