"""The faults: each does its worst to a run, and says what it hit."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults.runs import Command, Runs
from tests.faults.trainer import INTERVAL, STEPS, Outcome, being_saved, steps_done, steps_saved


class Fault(NamedTuple):
    """``hit``: whether the fault came about. ``command``: of the run. ``damaged``: see `judge.Left`.

    ``refusal``: how the process ended, where it had to end of itself.
    """

    hit: bool
    workdir: Path
    command: Command
    damaged: dict[int, list[str]] = {}  # noqa: RUF012
    refusal: Outcome | None = None


class Scene(NamedTuple):
    """What a fault may use: its own random numbers and empty folder, the runs, and a stack that cleans up after it."""

    random: Random
    folder: Path
    runs: Runs
    after: ExitStack


def kill(scene: Scene) -> Fault:
    """kill -9 at a random moment of a run, or of its continuation: at a random step, or (a quarter) as it starts."""
    return _kill(scene, scene.runs.command, _begin(scene), at_start=scene.random.random() < 0.25)


def kill_in_save(scene: Scene) -> Fault:
    """kill -9 while a checkpoint's temporary directory exists; a hit where it is still there afterwards."""
    workdir = _begin(scene)
    wanted = scene.random.randrange(max(steps_saved(workdir), default=0) + 1, STEPS + 1)
    trainer = scene.runs.start(scene.runs.command, workdir)
    trainer.wait_until(lambda: being_saved(workdir) >= wanted)
    time.sleep(scene.random.uniform(0, 0.12))  # about as long as a save takes
    hit = trainer.kill() and being_saved(workdir) >= 0
    return Fault(hit, workdir, scene.runs.command)


def flip(scene: Scene) -> Fault:
    """One random bit of a random file of the newest checkpoint; of every checkpoint in one of eight cases."""

    def damage(checkpoint: Path) -> str:
        file = scene.random.choice(_files(checkpoint))
        content = bytearray(file.read_bytes())
        bit = scene.random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        return str(file.relative_to(checkpoint))

    return _damage(scene, damage)


def truncate(scene: Scene) -> Fault:
    """A random file of the newest checkpoint cut at a random length; of every checkpoint in one of eight cases."""

    def damage(checkpoint: Path) -> str:
        file = scene.random.choice(_files(checkpoint))
        os.truncate(file, scene.random.randrange(file.stat().st_size))
        return str(file.relative_to(checkpoint))

    return _damage(scene, damage)


def delete(scene: Scene) -> Fault:
    """A random file of the newest checkpoint removed, or (a quarter) a whole item; of every checkpoint in one of eight
    cases."""

    def damage(checkpoint: Path) -> str:
        if scene.random.random() < 0.25:
            item = scene.random.choice(["state", "record"])
            shutil.rmtree(checkpoint / item)
            return item
        file = scene.random.choice(_files(checkpoint))
        file.unlink()
        return str(file.relative_to(checkpoint))

    return _damage(scene, damage)


def full_disk(scene: Scene) -> Fault:
    """A disk that fills up at a random step, up to 200 KB, which is less than a checkpoint; then space is made again.

    A small tmpfs where mounting is allowed; else no file may grow beyond a random size of up to 40 KB.
    """
    if not mounted(scene.folder, "64m", scene.after):
        workdir = _begin(scene)
        limit = scene.random.randrange(1, 40_000)
        outcome = scene.runs.start(scene.runs.command, workdir, file_limit=limit).finish()
        return Fault(outcome.status != 0, workdir, scene.runs.command, refusal=outcome)
    workdir, filler = _begin(scene), scene.folder / "filler"
    step, leave = _random_step(scene, workdir), scene.random.randrange(200_000)
    trainer = scene.runs.start(scene.runs.command, workdir)
    trainer.wait_until(lambda: steps_done(workdir) >= step)
    fill(filler, leave)
    outcome = trainer.finish()
    filler.unlink()
    return Fault(outcome.status != 0, workdir, scene.runs.command, refusal=outcome)


def nan(scene: Scene) -> Fault:
    """Training data with one pixel that is NaN or infinite, and a kill -9 at a random step."""
    command = scene.runs.poisoned(scene.random)
    scene.runs.reference(command)  # compiles
    return _kill(scene, command, scene.runs.new(scene.folder / "run"), at_start=False)


KINDS: dict[str, Callable[[Scene], Fault]] = {
    "kill": kill,
    "kill_in_save": kill_in_save,
    "flip": flip,
    "truncate": truncate,
    "delete": delete,
    "full_disk": full_disk,
    "nan": nan,
}


def mounted(folder: Path, size: str, after: ExitStack) -> bool:
    """Mount an empty tmpfs of ``size`` on ``folder`` until ``after`` unwinds; False where that is not allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        return False
    after.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
    return True


def fill(filler: Path, leave: int) -> None:
    """Write a file until no more than ``leave`` bytes are free where it is."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # others may be faster
        while (more := shutil.disk_usage(filler).free - leave) > 0:
            file.write(bytes(more))


def _begin(scene: Scene) -> Path:
    """The workdir of a run that is about to begin, or to go on after Ctrl-C half-way."""
    workdir = scene.folder / "run"
    if scene.random.random() < 0.5:
        return shutil.copytree(scene.runs.half, workdir)
    return scene.runs.new(workdir)


def _random_step(scene: Scene, workdir: Path) -> int:
    """A step that the run has still to take, not one of the last, so that a fault does not come too late."""
    return scene.random.randrange(steps_done(workdir) + 1, STEPS - INTERVAL)


def _kill(scene: Scene, command: Command, workdir: Path, at_start: bool) -> Fault:
    step = _random_step(scene, workdir)
    trainer = scene.runs.start(command, workdir)
    if at_start:
        time.sleep(scene.random.uniform(0, scene.runs.startup))
    else:
        trainer.wait_until(lambda: steps_done(workdir) >= step)
        time.sleep(scene.random.uniform(0, 0.1))  # a few steps or a save
    return Fault(trainer.kill(), workdir, command)


def _damage(scene: Scene, damage: Callable[[Path], str]) -> Fault:
    workdir = shutil.copytree(scene.runs.half, scene.folder / "run")
    saved = steps_saved(workdir)
    chosen = saved if scene.random.random() < 1 / 8 else saved[-1:]
    damaged = {step: [damage(workdir / "checkpoints" / str(step))] for step in chosen}
    return Fault(True, workdir, scene.runs.command, damaged)


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
