"""What several steps in one call of the compiled program are worth here (config.steps_per_call), timed in turn.

    python -m benchmarks.calls [--calls=1,5,25 --rounds=9 --steps=100 --batch=16 --patch=4 --width=16 --depth=1]

The trainer's own loop on ``digits_sparse`` with a DiT of that size: in each round ``steps`` steps for each
number of steps per call. Prints medians over the rounds of the milliseconds of a step and of their ratio to the first
number's, with the 2nd and 98th percentile. The gain is what the host needs to start a step, where the device waits for
it; the scan over the steps may cost something itself.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.overhead import advance, running, timed
from configs import digits_sparse
from maskdiff_jax.stages import build_stages


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", default="1,5,25", help="numbers of steps per call")
    for name, default in {"rounds": 9, "steps": 100, "batch": 16, "patch": 4, "width": 16, "depth": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    calls = [int(number) for number in options.calls.split(",")]

    config = digits_sparse.get_config()
    config.update({"batch": options.batch, "steps": 10**6})
    config.model = {"name": "dit", "patch": options.patch, "width": options.width, "depth": options.depth, "heads": 2}
    config.log.update({key: 0 for key in ("heldout_every", "sample_every", "checkpoint_every")})
    with tempfile.TemporaryDirectory() as folder:
        print(format_table(measure(config, calls, options.rounds, options.steps, Path(folder))))


def measure(config, calls: list[int], rounds: int, steps: int, folder: Path) -> dict[int, list[float]]:
    """Seconds of ``steps`` steps for each number of steps per call, in each round; the first, which compiles, is left
    out."""
    seconds: dict[int, list[float]] = {number: [] for number in calls}
    with running(build_stages(config)[0], folder) as (run, state):
        step = run.step(state)
        for number in range(rounds + 1):
            for call in calls[:: 1 if number % 2 else -1]:
                run.config.steps_per_call = call
                state, taken = timed(partial(advance, run, step, count=steps, save_at=0), state)
                seconds[call] += [taken / steps] * bool(number)
    return seconds


def format_table(seconds: dict[int, list[float]]) -> str:
    lines = ["| steps per call | ms per step | ratio | spread |", "|---|---|---|---|"]
    first = np.array(next(iter(seconds.values())))
    for call, taken in seconds.items():
        low, median, high = np.percentile(np.array(taken) / first, (2.5, 50, 97.5))
        lines.append(f"| {call} | {1000 * np.median(taken):.2f} | {median:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
