"""The page of a run, from the files in its workdir alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.evaluate.page.html import Markup, document, element, join, note
from maskdiff_jax.evaluate.page.numerals import amount, duration, whole
from maskdiff_jax.evaluate.page.read import Run, is_number, mapping, number, numbers, read_run, records
from maskdiff_jax.evaluate.page.sections import SECTIONS
from maskdiff_jax.train.files import write_atomically

NAME = "report.html"


def write_page(workdir: Path, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write ``workdir/report.html`` and return its path: one file that loads nothing and runs nothing.

    It shows what is there of config.json, metrics.jsonl, report.json, samples/, evaluations/ and diagnostics, and works
    while the run is still training. ``defaults`` is the default configuration as a dict; without it the keys that
    differ from it are not told apart. Equal files give equal bytes.
    Raises ValueError, in one line, for a folder that is no run.
    """
    path = Path(workdir) / NAME
    write_atomically(path, page(read_run(Path(workdir), defaults)).encode())
    return path


def page(run: Run) -> str:
    """The HTML document about a run."""
    made = {anchor: (title, make(run)) for anchor, (title, make) in SECTIONS.items()}
    kept = {anchor: entry for anchor, entry in made.items() if entry[1]}
    absent = [title.lower() for anchor, (title, _) in made.items() if anchor not in kept]
    links = [element("a", title, href=f"#{anchor}") for anchor, (title, _) in kept.items()]
    header = element(
        "header",
        element("p", _state(run), class_="kicker"),
        element("h1", run.name),
        element("p", _summary(run), class_="summary"),
        element("nav", join(links, " "), aria_label="Contents") if links else "",
    )
    sections = [
        element(
            "section", element("h2", title, id=f"{anchor}-title"), body, id=anchor, aria_labelledby=f"{anchor}-title"
        )
        for anchor, (title, body) in kept.items()
    ]
    notes = [f"Not measured: {', '.join(absent)}."] if absent else []
    footer = element("footer", *map(note, [*notes, *run.damaged, "Written by maskdiff_jax from the files of the run."]))
    return document(run.name, header, Markup("\n"), element("main", join(sections, "\n")), footer)


def _state(run: Run) -> str:
    """When the figures were made, and whether they are final."""
    created = mapping(run.report.get("provenance")).get("created")
    if not created:
        return f"{run.written:%Y-%m-%d %H:%M} UTC · no final report yet"
    steps = number(run.report.get("steps"))
    stale = steps < run.step
    return f"{str(created)[:16].replace('T', ' ')} UTC" + (f" · final report of step {whole(steps)}" if stale else "")


def _summary(run: Run) -> str:
    """The run in a line: how far it is, how large, how long."""
    report, total = run.report, _planned(run.config)
    parts = [f"Step {whole(run.step)}" + (f" of {whole(total)}" if total else "")]
    model, data = mapping(run.config.get("model")), mapping(run.config.get("data"))
    size = f" with {amount(report['parameters'])} parameters" if is_number(report.get("parameters")) else ""
    parts += [f"{model['name']}{size}"] if "name" in model else []
    parts += [str(data["name"])] if "name" in data else []
    seconds = number(report.get("seconds", run.last("seconds")))
    parts += [f"{duration(seconds)} of training"] if np.isfinite(seconds) else []
    return " · ".join(parts)


def _planned(config: Mapping[str, Any]) -> int:
    """The steps of all stages; 0 where the configuration does not say."""
    found = numbers([stage.get("steps", config.get("steps")) for stage in records(config.get("stages")) or [{}]])
    return int(found.sum()) if np.isfinite(found).all() else 0
