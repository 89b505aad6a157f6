"""The runs that the faults of a campaign share: the references, and one that was stopped half-way."""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults.judge import End, end_of
from tests.faults.poison import Poison
from tests.faults.trainer import ARGUMENTS, BATCH, EVER, INTERVAL, STEPS, Trainer, steps_done

POISONS = (Poison(3, "nan"), Poison(3, "inf"), Poison(50, "nan"), Poison(50, "-inf"))


class Command(NamedTuple):
    """The arguments of a run, and the number of its steps whose batch is poisoned."""

    arguments: tuple[str, ...] = ARGUMENTS
    skips: int = 0


class Runs:
    """Runs of ``command`` below ``folder``. They share a cache of compiled programs: only the first one compiles.

    ``environment``: variables of the processes, beside this one's own.
    """

    def __init__(self, folder: Path, command: Command | None = None, environment: Mapping[str, str] | None = None):
        folder.mkdir(exist_ok=True)
        self.command = command or Command()
        self._folder, self._last = folder, None
        self.references: dict[Command, tuple[Path, End]] = {}
        self._environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **(environment or {}),
        }
        self.startup = 0.0  # seconds from the start of a process to its first line, without compiling

    def start(self, command: Command, workdir: Path, file_limit: int | None = None) -> Trainer:
        self._last = Trainer(command.arguments, workdir, self._environment, file_limit)
        return self._last

    def stop(self) -> None:
        """Kill what was started last, where it still runs."""
        if self._last is not None:
            self._last.kill()

    def new(self, workdir: Path) -> Path:
        """A workdir before its run, in which the user keeps a note."""
        (workdir / "mine").mkdir(parents=True)
        (workdir / "mine" / "notes.txt").write_text("do not touch\n")
        return workdir

    def reference(self, command: Command | None = None) -> tuple[Path, End]:
        """A run that nothing disturbs: its workdir, and its end."""
        command = command or self.command
        if command not in self.references:
            workdir = self.new(self._folder / f"reference_{len(self.references)}")
            outcome = self.start(command, workdir).finish()
            if outcome.status != 0:
                raise RuntimeError(f"the reference ended with status {outcome.status}:\n{outcome.output}")
            self.references[command] = workdir, end_of(workdir)
        return self.references[command]

    @cached_property
    def half(self) -> Path:
        """The workdir of a run that was stopped half-way by Ctrl-C: it has an old checkpoint and two new ones."""
        self.reference()  # compiles
        workdir = self.new(self._folder / "half")
        begun = time.monotonic()
        trainer = self.start(self.command, workdir)
        trainer.wait_until(lambda: steps_done(workdir) > 0)
        self.startup = time.monotonic() - begun
        trainer.wait_until(lambda: steps_done(workdir) > EVER + INTERVAL)
        trainer.interrupt()
        outcome = trainer.finish()
        if outcome.status != 130 or not EVER < steps_done(workdir) < STEPS:
            raise RuntimeError(f"the run could not be stopped half-way: {outcome}")
        return workdir

    def poisoned(self, random: Random) -> Command:
        """A command whose data are poisoned: one of four, so that they can share references."""
        return poisoned(random.choice(POISONS), self._folder)


def poisoned(poison: Poison, folder: Path) -> Command:
    """The command of a run with poisoned data, which stand in ``folder``."""
    path = folder / f"poison_{poison.index}_{poison.value}.txt"
    return Command((*ARGUMENTS, *poison.put(path)), poison.batches(BATCH, STEPS))
