"""Training and sampling beside plain PyTorch: the same networks with the same weights, timed in turn in one run.

    python -m benchmarks.peers --out=DIR [--only=dit_s4,sampling --rounds=10 --steps=5 --device=cpu]

Needs torch (the extra ``crosscheck``). In each round one after the other: our compiled training step as the trainer has
it (random choices, forward, backward, clipping, AdamW, guard, average), the peer's eager step and the peer's under
torch.compile, of which the faster one counts; for sampling 10 steps of Euler's method. Each side has a process of its
own and all the cores that this one may run on; one of them works at a time. float32 on a CPU, bfloat16 with float32
parameters on a GPU.

Ratios are of one round: their median, with an interval that covers it with 95 % from 6 rounds on; on a CPU the same of
the processor's seconds, which other programs on the machine hardly change. Products of float32 matrices say how fast
either side's innermost work is. DIR gets peers.json and peers.md.
"""

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import report, setups, timing
from benchmarks.peers.jobs import Side
from maskdiff_jax.train.files import write_atomically, write_json


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if importlib.util.find_spec("torch") is None:
        sys.exit("benchmarks.peers needs torch: pip install -e '.[crosscheck]'")
    with Side("ours", options.device) as ours, Side("peer", options.device) as peer:

        def measured(kind: str, title: str, entry: Any, images: int, repeats: int, calls: int) -> dict[str, Any]:
            """``calls`` of a kind in a timing, which is ``repeats`` times a way's own."""
            print(title, flush=True)
            sides = [(side, side.prepare(kind, entry, repeats)) for side in (ours, peer)]
            ways = {way: partial(side.take, way) for side, ready in sides for way in ready.ways}
            found = report.row(title, images, calls, timing.alternate(ways, options.rounds))
            (_, one), (_, other) = sides
            first, failures = one.first_seconds | other.first_seconds, one.failures | other.failures
            return found | {"first_seconds": first, "failures": failures}

        rows = {}
        for name in options.only:
            setup = setups.SETUPS[name]
            kind, repeats, calls = ("training", options.steps, options.steps)
            if name in setups.SAMPLING:
                kind, repeats, calls = ("sampling", 1, setup.steps)
            rows[name] = measured(kind, setup.title, setup, setup.batch, repeats, calls)
        products = []
        for name, shape in setups.PRODUCTS.items():
            repeats = setups.repeats(shape)
            found = measured("product", name, shape, 0, repeats, repeats)
            products.append(found | {"gflops": report.gflops(shape, found)})
        made, about = ours.call("about"), peer.call("about")

    about |= {"device": options.device, "dtype": setups.DTYPES[options.device], "rounds": options.rounds}
    write_json(options.out / "peers.json", {**about, "cases": rows, "products": products, "provenance": made})
    tables = report.format_tables(about, made["versions"], list(rows.values()), products)
    write_atomically(options.out / "peers.md", f"{tables}\n".encode())
    print(tables)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; ends the program with a line where there is no such case, or a number is below 1."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=_cases, default=tuple(setups.SETUPS), help="names of cases, separated by commas")
    parser.add_argument("--rounds", type=_count, default=10, help="timings of each way, taken in turn")
    parser.add_argument("--steps", type=_count, default=5, help="training steps in a timing")
    parser.add_argument("--device", choices=tuple(setups.DTYPES), default="cpu")
    return parser.parse_args(argv)


def _cases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in setups.SETUPS]:
        raise argparse.ArgumentTypeError(f"no case {', '.join(unknown)}: choose from {', '.join(setups.SETUPS)}")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    main()
