"""The README's table of claims, made from the results and never typed.

    python -m benchmarks.claims.readme [--check] [--readme=README.md --results=benchmarks/results]

writes the table between the two marker lines; --check writes nothing and ends with status 1 where it would change.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.table import CLAIMS
from benchmarks.claims.text import interval, number
from maskdiff_jax.train.files import read_json, write_atomically

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
EMPTY = "No claim has been run yet; `python -m benchmarks.claims NAME --out=DIR` runs one."


def table(results: Sequence[Mapping[str, Any]], folder: str) -> str:
    """A row for each result: the question, the verdict, the tests with their intervals, and where it comes from."""
    if not results:
        return EMPTY
    lines = ["| claim | verdict | tests (95 % interval) | seeds, device, date |", "|---|---|---|---|"]
    for found in results:
        name = found["claim"] + ("" if found["budget"] == "cpu" else f"_{found['budget']}")
        tests = "<br>".join(f"{one['statement']}: {_estimate(one)}" for one in found["tests"])
        about = found["provenance"]
        origin = f"{found['seeds']}, {about['device']}, {about['created'][:10]}"
        lines.append(f"| [{found['question']}]({folder}/{name}.md) | {found['verdict']} | {tests} | {origin} |")
    return "\n".join(lines)


def read(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, in the order of the claims, cpu before gpu. Raises ValueError for a smoke version."""
    found = [read_json(path) for path in sorted(folder.glob("*.json"))]
    found = [one for one in found if isinstance(one, dict) and one.get("claim") in CLAIMS]
    for one in found:
        if one["smoke"]:
            raise ValueError(f"{folder}: the result of {one['claim']} is of a smoke version")
    order = list(CLAIMS)
    return sorted(found, key=lambda one: (order.index(one["claim"]), one["budget"]))


def replaced(text: str, content: str) -> str:
    """``text`` with ``content`` between the marker lines. Raises ValueError unless each is there once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README needs the lines {BEGIN} and {END}, once each, in this order")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(argv)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = replaced(old, table(read(options.results), "benchmarks/results"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.check and new != old:
        print(f"{options.readme} is not what the results say: run python -m benchmarks.claims.readme", file=sys.stderr)
        sys.exit(1)
    if not options.check:
        write_atomically(options.readme, new.encode())


def _estimate(test: Mapping[str, Any]) -> str:
    return f"{number(test['estimate'])} ({interval(test)}), {test['outcome']}"


if __name__ == "__main__":
    main()
