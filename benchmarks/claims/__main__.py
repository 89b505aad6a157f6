"""A claim, tested: its arms by seeds, a table with intervals, a picture and a verdict.

    python -m benchmarks.claims ssd_ratio --budget=cpu --seeds=3 --out=DIR

trains what DIR does not hold yet; interrupted, the same command goes on. DIR gets the runs, and NAME.json, NAME.md and
NAME.png (with _gpu for that budget). What is compared, and by which rule a claim is confirmed, is in the docstring of
benchmarks/claims/NAME.py. --smoke: seconds, to see that it works; its figures mean nothing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes at start-up

import jax

from benchmarks.claims import picture, text
from benchmarks.claims.plan import BUDGETS, shortened
from benchmarks.claims.results import result
from benchmarks.claims.runner import Campaign, Stopped
from benchmarks.claims.table import CLAIMS
from maskdiff_jax.data.source import DataError
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.sitting import BadSteps
from maskdiff_jax.train.files import plain, write_atomically, write_json
from maskdiff_jax.train.verify import CheckpointError


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    claim = CLAIMS[options.name]
    plan = claim.plans[options.budget]
    if options.smoke:
        plan = shortened(plan)
    if options.compiled:
        keep_compiled(options.out / "compiled")
    if not options.smoke and plan.minutes:
        print(f"{claim.name}: about {plan.minutes:g} minutes with 3 seeds on one quiet core", flush=True)
    campaign = Campaign(plan, options.out, options.seeds, options.data, options.smoke, options.steps)
    try:
        campaign.execute()
        found = plain(result(claim, campaign, options.budget, written(options), options.note))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except (ConfigError, DataError, CheckpointError, BadSteps) as error:
        fail(str(error))
    name = claim.name + ("" if options.budget == "cpu" else f"_{options.budget}")
    page = text.markdown(found)
    write_json(options.out / f"{name}.json", found)
    write_atomically(options.out / f"{name}.png", picture.draw(found, plan.panels))
    write_atomically(options.out / f"{name}.md", page.encode())
    print(page, end="")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Bad input ends in one line and exit status 2."""
    parser = _Parser(prog="python -m benchmarks.claims", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--budget", default="cpu", help=f"{' or '.join(BUDGETS)} [%(default)s]")
    parser.add_argument("--seeds", type=int, help="runs of every arm [3; 1 with --budget=gpu and with --smoke]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", default="", help="CIFAR-10 for --budget=gpu: a TFDS folder, or a packed file")
    parser.add_argument("--steps", type=int, help="of every arm with --budget=gpu, where nothing is timed then")
    parser.add_argument("--note", default="", help="a sentence on how it was run, for the result")
    parser.add_argument("--smoke", action="store_true", help="a tiny version, in seconds")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="keep no programs in DIR/compiled")
    options = parser.parse_args(argv)
    if options.name not in CLAIMS:
        parser.error(f"unknown claim {options.name!r}: choose from {', '.join(CLAIMS)}")
    if options.budget not in BUDGETS:
        parser.error(f"--budget={options.budget}: choose from {', '.join(BUDGETS)}")
    if options.budget not in CLAIMS[options.name].plans:
        known = ", ".join(name for name, claim in CLAIMS.items() if options.budget in claim.plans)
        parser.error(f"--budget={options.budget}: {options.name} has none; those that have: {known}")
    if options.seeds is None:
        options.seeds = 1 if options.smoke or options.budget == "gpu" else 3
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: at least 1")
    if options.steps is not None and (options.budget != "gpu" or options.steps < 1000):
        parser.error(f"--steps={options.steps}: at least 1000, and with --budget=gpu alone")
    if CLAIMS[options.name].plans[options.budget].data and not options.data:
        parser.error(f"--budget={options.budget} needs --data, a folder of TFDS or a file of benchmarks.claims.packed")
    return options


def written(options: argparse.Namespace) -> str:
    """The command, as a result states it: whole, but for the folders of this machine."""
    given = [f"--budget={options.budget}", f"--seeds={options.seeds}", "--out=DIR"]
    given += ["--data=DATA"] if options.data else []
    given += [f"--steps={options.steps}"] if options.steps else []
    return " ".join(["python -m benchmarks.claims", options.name, *given, *(["--smoke"] if options.smoke else [])])


def keep_compiled(folder: Path) -> None:
    """Let JAX keep compiled programs in a folder: seeds compile the same ones."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def fail(message: str) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit status 2."""
        fail(message)


if __name__ == "__main__":
    main()
