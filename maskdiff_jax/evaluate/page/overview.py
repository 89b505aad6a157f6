"""The figures of a run at a glance, its configuration, and where it comes from."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from maskdiff_jax.evaluate.page.html import Markup, element, join, note, table
from maskdiff_jax.evaluate.page.known import REFERENCES, REPORTED, known, paired, uncapitalised
from maskdiff_jax.evaluate.page.numerals import DASH, amount, duration, measured, show, whole
from maskdiff_jax.evaluate.page.read import Run, mapping, number
from maskdiff_jax.train.files import plain

ABSENT = object()


def headline(run: Run) -> Markup:
    """The figures of the final report; before there is one, the last in metrics.jsonl."""
    return _reported(run) if run.report else _so_far(run)


def _reported(run: Run) -> Markup:
    report, found, missing = run.report, [], []
    for name, about in REPORTED.items():
        if report.get(name) is None:
            missing += [uncapitalised(about.title)] if name in report else []
            continue
        reference = number(report.get(about.reference))
        told = f"{about.of}: {show(reference)}" if reference == reference else about.describes
        found.append((about.title, show(report[name]), told))
    heldout = mapping(report.get("heldout")).get("loss")
    found.append(("Held-out loss", show(heldout), "dense, mean over all noise levels"))
    metrics = paired(mapping(report.get("metrics")))
    found += [(known(n).title, measured(*both), known(n).describes) for n, both in metrics.items()]
    quiet = note(f"Not measured: {', '.join(missing)}.") if missing else ""
    return join([tiles(found), quiet])


def _so_far(run: Run) -> Markup:
    losses = {
        "heldout_ema/loss": "Held-out loss, average",
        "heldout/loss": "Held-out loss, raw",
        "train/loss": "Training loss",
    }
    keys = losses | {f"quality/{name}": known(name).title for name in quality_names(run)}
    series = {key: run.series(key) for key in keys}
    found = [
        (keys[key], show(values[-1]), f"step {whole(steps[-1])}")
        for key, (steps, values) in series.items()
        if len(steps)
    ]
    return tiles(found)


def quality_names(run: Run) -> list[str]:
    """The metrics of samples that were measured through training, in the order of the file."""
    names = dict.fromkeys(key for row in run.rows for key in row if key.startswith("quality/"))
    return list(paired({name: None for key in names if (name := key.removeprefix("quality/")) not in REFERENCES}))


def tiles(found: list[tuple[str, str, str]]) -> Markup:
    """Figures side by side: a title, a value and a line about it."""
    cells = [
        element("div", element("dt", title), element("dd", value, class_="value"), element("dd", about, class_="about"))
        for title, value, about in found
    ]
    return element("dl", *cells, class_="tiles") if cells else Markup()


def configuration(run: Run) -> Markup:
    """The keys that differ from the defaults, and the whole configuration, folded."""
    text = json.dumps(run.config, indent=2, ensure_ascii=False)
    whole_config = element("details", element("summary", "The whole configuration"), element("pre", text, tabindex=0))
    if run.defaults is None:
        return whole_config
    usual, own = dict(leaves(plain(run.defaults))), dict(leaves(run.config))
    rows = [
        (element("code", key), element("code", _value(value)), element("code", _value(usual.get(key, ABSENT))))
        for key, value in own.items()
        if key not in usual or value != usual[key]
    ]
    if not rows:
        return join([note("Every key has its default."), whole_config])
    return join([table(("key", "value", "default"), rows, texts=range(3), label="Keys that differ"), whole_config])


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; what is no section, or an empty one, is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def provenance(run: Run) -> Markup:
    """What made the figures of the report: code, machine, amounts."""
    report, origin, samples = run.report, mapping(run.report.get("provenance")), mapping(run.report.get("samples"))
    if not report:
        return Markup()
    features = mapping(report.get("features"))
    versions = ", ".join(f"{name} {version}" for name, version in mapping(origin.get("versions")).items())
    sampled = [("sampler", "sampler"), ("steps", "steps"), ("guidance", "guidance"), ("seed", "seed")]
    rows = [
        ("Steps", whole(report.get("steps"))),
        ("Images seen", whole(report.get("images"))),
        ("Parameters", amount(report.get("parameters"))),
        ("Training compute", amount(report.get("flops"), "FLOP")),
        ("Training time", duration(report.get("seconds"))),
        ("Samples", ", ".join([whole(samples.get("count")), *(f"{t} {samples.get(k, DASH)}" for k, t in sampled)])),
        ("Features", features.get("name", DASH)),
        ("Device", f"{origin.get('devices', DASH)} × {origin.get('device', DASH)}"),
        ("Processes", whole(origin.get("processes"))),
        ("Revision", element("code", origin.get("revision") or DASH, class_="long")),
        ("Configuration", element("code", f"sha256 {origin.get('config_sha256', DASH)}", class_="long")),
        ("Versions", versions or DASH),
    ]
    return table((), rows, texts=range(2), label="Provenance")


def _value(value: Any) -> str:
    if value is ABSENT:
        return DASH
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
