"""What happened in training: losses, quality, and how fast it went."""

import numpy as np

from maskdiff_jax.evaluate.page.charts import Axes, Line, chart, smooth
from maskdiff_jax.evaluate.page.html import Markup, figure, figures, join, note
from maskdiff_jax.evaluate.page.known import good, known, sentence
from maskdiff_jax.evaluate.page.numerals import DASH, amount, duration, show, whole
from maskdiff_jax.evaluate.page.overview import quality_names, tiles
from maskdiff_jax.evaluate.page.read import Run, is_number, mapping, number, numbers

RAMP = ((0, 114, 178), (150, 122, 150), (213, 94, 0))  # from little noise to much: blue, grey, vermilion
MANY = 40  # points from which a noisy curve is drawn with its running mean
AVERAGE = "heldout_ema"  # held-out losses of the averaged parameters, which are sampled and evaluated


def curves(run: Run) -> Markup:
    """Losses, norms of the gradient and learning rate."""
    found = figures(
        _noisy(run, "train/loss", "Training loss", "What the optimiser sees; it should fall and level off."),
        _heldout(run),
        _noisy(
            run, "train/grad_norm", "Gradient norm", "Before clipping; rare spikes are harmless, growth is not.", True
        ),
        _learning_rate(run),
    )
    skipped = run.last("train/skipped_total")
    quiet = note(f"{whole(skipped)} steps with a bad gradient were skipped.") if skipped > 0 else ""
    return join([found, quiet]) if found else found


def levels(run: Run) -> Markup:
    """The held-out loss by noise level, at the end and through training."""
    return figures(_levels_now(run), _levels_through(run))


def quality(run: Run) -> Markup:
    """The image metrics that were measured through training, each beside its value for real images."""
    found = []
    for name in quality_names(run):
        about = known(name)
        reference = number(run.report.get(about.reference, run.last(f"quality/{about.reference}")))
        marks = {about.of: reference} if np.isfinite(reference) else {}
        told = " ".join(filter(None, [sentence(about.describes), good(about.better)]))
        line = Line("samples", *run.series(f"quality/{name}"), marks=True)
        drawn = chart(f"quality-{name}", f"{about.title} through training", [line], Axes("step"), marks)
        found.append(figure(drawn, about.title, told) if drawn else "")
    return figures(*found)


def throughput(run: Run) -> Markup:
    """Images a second between the lines of metrics.jsonl, and what training cost in all."""
    found = [
        (row["step"], *(number(row.get(key)) for key in ("images", "seconds", "flops")))
        for row in run.rows
        if "images" in row
    ]
    steps, images, seconds, flops = np.array(found, np.float64).reshape(-1, 4).T
    passed = np.diff(seconds)
    forward = (np.diff(images) > 0) & (passed > 0)  # after a restart the clock, or the step, may have gone back
    rate = np.where(forward, np.diff(images) / np.where(forward, passed, 1), np.nan)
    if not forward.any():
        return Markup()
    work = np.where(forward, np.diff(flops) / np.where(forward, passed, 1), np.nan)
    lines = [Line("", steps[1:], rate, faint=True), Line("running mean", steps[1:], smooth(rate, _width(len(rate))))]
    lines = lines if len(rate) >= MANY else [Line("", steps[1:], rate, marks=True)]
    drawn = chart("throughput", "Images per second through training", lines, Axes("step", "images / s", zero=True))
    sentence = "Between two lines of the log; a dip is a pause or a restart, a steady line is good."
    usual = f"median; {amount(np.nanmedian(work), 'FLOP/s')}" if np.isfinite(work).any() else "median"
    about = [
        ("Images per second", amount(np.nanmedian(rate)), usual),
        ("Training time", duration(seconds[-1]), "all restarts together"),
        ("Images seen", amount(images[-1]), "repetitions counted"),
        ("Training compute", amount(flops[-1], "FLOP"), "analytic"),
    ]
    return join(
        [
            tiles([entry for entry in about if entry[1] != DASH]),
            figures(figure(drawn, "Speed", sentence), kind="figures below"),
        ]
    )


def _noisy(run: Run, key: str, title: str, sentence: str, logarithmic: bool = False) -> Markup:
    """A curve of single batches, with a running mean where it is long."""
    steps, values = run.series(key)
    lines = [Line("", steps, values)]
    if len(values) >= MANY:
        mean = Line("running mean", steps, smooth(values, _width(len(values))))
        lines = [Line("", steps, values, faint=True), mean]
    drawn = chart(key, f"{title} through training", lines, Axes("step", log_y=logarithmic, focus=True))
    ends = f" Last: {show(values[-1])}." if drawn else ""
    return figure(drawn, title, sentence + ends) if drawn else drawn


def _heldout(run: Run) -> Markup:
    names = {f"{AVERAGE}/loss": "averaged parameters", "heldout/loss": "raw parameters"}
    series = {label: run.series(key) for key, label in names.items()}
    lines = [
        Line(label, *found, colour=i, marks=len(found[0]) < MANY) for i, (label, found) in enumerate(series.items())
    ]
    drawn = chart("heldout", "Held-out loss through training", lines, Axes("step", focus=True))
    sentence = (
        "The dense loss at fixed noise, the same for every mask and weighting; low is good, "
        "and rising while the training loss falls is overfitting."
    )
    return figure(drawn, "Held-out loss", sentence) if drawn else drawn


def _learning_rate(run: Run) -> Markup:
    drawn = chart(
        "rate",
        "Learning rate through training",
        [Line("", *run.series("train/learning_rate"))],
        Axes("step", zero=True),
    )
    return figure(drawn, "Learning rate", "As the schedule sets it.") if drawn else drawn


def _levels_now(run: Run) -> Markup:
    """From the report, where the levels have edges; otherwise the last ones in metrics.jsonl, by their number."""
    heldout = mapping(run.report.get("heldout"))
    values, edges = numbers(heldout.get("levels", [])), numbers(heldout.get("edges", []))
    axes = Axes("t (0 is data, 1 is noise)", zero=True)
    if not len(values) or len(edges) != len(values) + 1:
        keys = _level_keys(run)
        values, edges = np.array([run.last(key) for key in keys]), np.arange(len(keys) + 1.0)
        axes = axes._replace(x="noise level, from least to most")
    if not len(values):
        return Markup()
    values = np.where(np.isfinite(values), values, np.nan)
    drawn = chart("levels", "Held-out loss by noise level", [Line("", edges, values, steps=True)], axes)
    mean = f" Mean {show(np.nanmean(values))}." if drawn else ""
    sentence = f"Where in the noise the loss is at the end, to be set beside another run's; low is good.{mean}"
    return figure(drawn, "By noise level", sentence) if drawn else drawn


def _levels_through(run: Run) -> Markup:
    keys = _level_keys(run)
    lines = []
    for i, key in enumerate(keys):
        ends = {0: "least noise", len(keys) - 1: "most noise"}
        lines.append(Line(ends.get(i, ""), *run.series(key), colour=_ramp(i / max(1, len(keys) - 1))))
    drawn = chart(
        "levels-through", "Held-out loss of each noise level through training", lines, Axes("step", focus=True)
    )
    sentence = (
        "A line for each noise level, averaged parameters where there are some; all should fall, none should turn."
    )
    return figure(drawn, "By noise level, through training", sentence) if drawn else drawn


def _level_keys(run: Run) -> list[str]:
    """The keys of the levels, of the average where that was measured."""
    keys = sorted({key for row in run.rows for key, value in row.items() if "/level_" in key and is_number(value)})
    average = [key for key in keys if key.startswith(f"{AVERAGE}/")]
    return average or [key for key in keys if key.startswith("heldout/")]


def _ramp(part: float) -> str:
    place = 2 * part
    low = min(1, int(place))
    mixed = [round(a + (place - low) * (b - a)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _width(count: int) -> int:
    return max(3, count // 25)
