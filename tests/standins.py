"""Stand-ins for the tools and the trainer that launch scripts start."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

# Stands in for the interpreter that runs the trainer: notes how it was started and does what its last option says.
TRAINER = """#!{python} -IS
import json, os, signal, sys, time
number = os.environ.get("JAX_PROCESS_ID", os.environ.get("JOB_COMPLETION_INDEX", "0"))
fake = os.environ["FAKE"]
def note(what):
    print(what, flush=True)
    with open(f"{{fake}}/trainer_{{number}}", "a") as file:
        file.write(what + "\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--deaf" in sys.argv else stop)
note(json.dumps([sys.argv[1:], {{k: v for k, v in os.environ.items() if k.startswith(("JAX_", "CUDA_"))}}]))
def wait():
    time.sleep(600)
def report():
    workdir = [a.partition("=")[2] for a in sys.argv if a.startswith("--workdir=")][-1]
    os.makedirs(workdir, exist_ok=True)
    open(workdir + "/report.json", "w").write("{{}}")
def fail():
    sys.exit(7)
def fail_alone():
    fail() if number == "1" else wait()
def next_of_plan():
    first, *rest = open(fake + "/plan").read().split()
    open(fake + "/plan", "w").write(" ".join(rest))
    globals()[first]()
def preempt():
    open(fake + "/state", "w").write("PREEMPTED")
    sys.exit(134)
def save():
    sys.exit(0)
def brief():
    time.sleep(1)
    note("done")
    sys.exit(3)
globals()[sys.argv[-1].removeprefix("--then=")]()
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Fake:
    """A folder for notes, a PATH whose first folder holds stand-ins, and the environment that says so."""

    def __init__(self, folder: Path):
        self.folder, self.tools = folder, folder / "tools"
        self.python = script(folder / "python", TRAINER.format(python=sys.executable))
        home = folder / "home"
        home.mkdir()
        path = f"{self.tools}:{os.environ['PATH']}"
        self.environ = {"PATH": path, "HOME": str(home), "FAKE": str(folder), "PYTHON": str(self.python)}

    def tool(self, name: str, text: str) -> None:
        script(self.tools / name, f'#!/usr/bin/env bash\necho "{name} $*" >>"$FAKE/calls"\n{text}\n')

    def start(self, *command: object, **environ: str) -> subprocess.Popen:
        # Where the tests run in the background, Ctrl-C is ignored, which a shell could not change for itself.
        argv, pipe = ["env", "--default-signal=INT", *map(str, command)], subprocess.PIPE
        return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=self.environ | environ, cwd=self.folder)

    def run(self, *command: object, **environ: str) -> tuple[int, str, str]:
        process = self.start(*command, **environ)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def noted(self, number: int) -> list[str]:
        file = self.folder / f"trainer_{number}"
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, *numbers: int) -> None:
        """Until these processes have noted that they run."""
        end = time.monotonic() + 30
        while not all(map(self.noted, numbers)):
            assert time.monotonic() < end
            time.sleep(0.05)

    def calls(self, verb: str) -> int:
        return sum(
            re.search(rf"\b{verb}\b", line) is not None for line in (self.folder / "calls").read_text().splitlines()
        )
