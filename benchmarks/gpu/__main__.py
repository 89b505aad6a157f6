"""Training and sampling on one GPU: how near to its peak, and how far ahead of a compiled PyTorch peer.

    python -m benchmarks.gpu --only=dit_b2 --out=DIR [--minutes=8 --model=remat=dots]

needs jax, flax and optax, and of this project the working tree alone: no data and no network; with torch also the peer.
Each case keeps to its minutes: it searches for the batch that gives most images a second, ours and the peer's, each
within half of the card's memory, then times both in turn, in rounds, each in a process of its own, and says so where
time ended it. bfloat16 with float32 parameters; the whole step (random choices, forward, backward, clipping, AdamW,
guard, average), as `benchmarks.peers` has it.

MFU is images/s × 6 FLOPs for each multiplication of the forward pass, over the card's peak by its data sheet, and over
a large matrix product measured on the spot. Ratios are of one round: their median, with an interval that covers it with
95 % from 6 rounds on. DIR gets NAME.json and NAME.md. The status is 1 where a bar does not hold.

``--device=cpu --tiny`` shows in seconds that a case runs.
"""

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import CASES, Case, Result
from benchmarks.gpu.lab import Lab
from benchmarks.gpu.report import format_case
from benchmarks.peers import setups
from maskdiff_jax.train.files import write_atomically, write_json


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    held = []
    for name in options.only:
        lab = Lab(options.device, options.minutes, tiny=options.tiny, options=dict(options.model), first=options.batch)
        try:
            held += run(name, CASES[name], lab, options.out)
        except (RuntimeError, TimeoutError) as error:
            sys.exit(f"{name}: {error}")
        finally:
            lab.close()
    sys.exit(1 if False in held else 0)


def run(name: str, case: Case, lab: Lab, out: Path) -> list[bool | None]:
    """Measure a case, write its two files, print its table; whether each bar holds, None for one that is not judged."""
    lab.say(f"{name}: {case.setup.title}")
    setup = lab.of(case.setup)
    found: Result = case.measure(lab, setup)
    spent, given = lab.budget.spent, lab.budget.total
    dtype = setups.DTYPES[lab.device]
    conditions = f"{dtype}; {lab.rounds} rounds, {spent:.0f} of {given:.0f} s" + ("; TINY" if lab.tiny else "")
    # what is measured on other chips is of interest, and no verdict
    bars = [bar if lab.peak is not None and not lab.tiny else bar._replace(value=None) for bar in found.bars]
    text = format_case(name, case.setup.title, lab.made_with, conditions, found.head, found.rows, bars, lab.notes)
    about: dict[str, Any] = {"case": name, "device": lab.device, "dtype": dtype, "tiny": lab.tiny}
    about |= {"setup": setup._asdict(), "rounds": lab.rounds, "seconds": spent, "minutes": given / 60}
    verdicts = [bar._asdict() | {"holds": bar.holds} for bar in bars]
    write_json(
        out / f"{name}.json",
        {**about, **found.figures, "bars": verdicts, "notes": lab.notes, "provenance": lab.made_with},
    )
    write_atomically(out / f"{name}.md", f"{text}\n".encode())
    print(text, flush=True)
    return [bar.holds for bar in bars]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; ends the program with a line where there is no such case, or a number is out of range."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=_cases, default=tuple(CASES), help="names of cases, separated by commas")
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="that each case may take")
    parser.add_argument("--batch", type=int, default=None, help="with which the search for the best batch begins")
    parser.add_argument("--model", type=_option, action="append", default=[], help="KEY=VALUE of our network, repeated")
    parser.add_argument("--device", choices=tuple(setups.DTYPES), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds, to see that a case runs")
    return parser.parse_args(argv)


def _cases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"no case {', '.join(unknown)}: choose from {', '.join(CASES)}")
    return names


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


def _option(text: str) -> tuple[str, Any]:
    """ "remat=dots" -> ("remat", "dots"); numbers and booleans as in Python."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


if __name__ == "__main__":
    main()
