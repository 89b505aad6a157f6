"""Running the command line: in a process of its own, as a user does, or in this one, which is faster."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from maskdiff_jax import main

ROOT = Path(__file__).resolve().parents[1]

# A digits run of seconds: the network is tiny, and nothing is sampled that a test does not ask for.
TINY = (
    "--config=configs/digits_sparse.py",
    "--config.batch=16",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.heads=2",
    "--config.model.patch=4",
    "--config.schedule.warmup=2",
    "--config.sample.steps=3",
    "--config.sample.num=10",
    "--config.evaluate.num=0",
    "--config.evaluate.images=32",
    "--config.log.every=5",
    "--config.log.heldout_every=0",
    "--config.log.sample_every=0",
    "--config.log.checkpoint_every=10",
    "--config.log.page=False",
)


def command(*arguments: str, **options) -> subprocess.Popen:
    """``python -m maskdiff_jax.main`` from the root of the repository, output captured as text."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | options
    return subprocess.Popen([sys.executable, "-m", "maskdiff_jax.main", *map(str, arguments)], **streams)


def here(*arguments: str) -> int:
    """The same in this process; the exit status. Output goes where pytest captures it."""
    argv = ["main.py", *map(str, arguments)]
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
    patch.setattr(sys, "path", [*sys.path])
    patch.chdir(ROOT)
    flags.FLAGS.unparse_flags()
    try:
        main.main(main.parse_flags(argv))
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        patch.undo()
        overrides = [name for name in flags.FLAGS if name.startswith("config.")]  # ml_collections makes flags of them
        for override in overrides:
            delattr(flags.FLAGS, override)
