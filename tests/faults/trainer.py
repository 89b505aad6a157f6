"""The trainer's command in a process of its own, and what can be seen of it from outside."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.cli import TINY, command

STEPS = 40
INTERVAL = 5  # steps between checkpoints
EVER = 15  # checkpoints of these steps are kept for ever, so that there is something old to lose
BATCH = 16
ARGUMENTS = (
    *TINY,
    f"--config.steps={STEPS}",
    f"--config.batch={BATCH}",
    "--config.log.every=1",  # a line for every step: none may be missing
    "--config.log.heldout_every=10",
    f"--config.log.checkpoint_every={INTERVAL}",
    f"--config.log.keep_every={EVER}",
)
TIMEOUT = 240.0  # seconds for a run of six on a quiet core: longer is a hang


class Outcome(NamedTuple):
    """How a process ended: its exit status, None where it hung and was killed, and all that it printed."""

    status: int | None
    output: str


class Trainer:
    """A running ``python -m maskdiff_jax.main``. ``file_limit``: bytes to which every file of it is limited."""

    def __init__(
        self, arguments: tuple[str, ...], workdir: Path, environment: Mapping[str, str], file_limit: int | None = None
    ):
        self._log = workdir.with_name(f"{workdir.name}.log")
        with self._log.open("wb") as log:
            self._process = command(
                *arguments,
                f"--workdir={workdir}",
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        if file_limit is not None:  # long before it has imported what it needs
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))

    def wait_until(self, seen: Callable[[], bool]) -> bool:
        """Poll until ``seen()``; False where the process ended before that, or hung."""
        deadline = time.monotonic() + TIMEOUT
        while not seen():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> bool:
        """kill -9, with all that it started; False where it had ended before."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait() == -signal.SIGKILL

    def finish(self) -> Outcome:
        """Wait for the end, which takes no longer than TIMEOUT."""
        try:
            status = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            status = None
        return Outcome(status, self._log.read_text(errors="replace"))


def steps_done(workdir: Path) -> int:
    """The step of the last whole line of metrics.jsonl, which is written one step late; 0 where there is none."""
    path = workdir / "metrics.jsonl"
    found = re.findall(rb'^\{"step": (\d+),.*\}\n', path.read_bytes(), re.M) if path.exists() else []
    return int(found[-1]) if found else 0


def steps_saved(workdir: Path) -> list[int]:
    """The steps of the checkpoints that are complete, in increasing order."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def being_saved(workdir: Path) -> int:
    """The step of the checkpoint that is being written; -1 where none is."""
    names = [path.name.partition(".orbax-checkpoint-tmp") for path in (workdir / "checkpoints").glob("*")]
    return max((int(step) for step, temporary, _ in names if temporary and step.isdigit()), default=-1)
