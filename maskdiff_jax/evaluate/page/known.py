"""What is known of a metric: how a reader calls it, which values are better, what it is compared with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from maskdiff_jax.evaluate.metrics import METRICS


class Known(NamedTuple):
    """``better``: "lower", "higher" or "". ``reference``: the key of the report that holds the value of real images,
    and ``of``: what that is.
    """

    title: str
    better: str = ""
    describes: str = ""
    reference: str = ""
    of: str = ""


# Metrics that are entries of report.json.
REPORTED = {
    "class_accuracy": Known(
        "Class accuracy", "higher", "share of samples of the class asked for",
        "judge_accuracy", "the judge on real images",
    ),
    "pixel_frechet": Known(
        "Pixel Fréchet distance", "lower", "distance of samples and real images in pixel space",
        "pixel_frechet_reference", "random halves of the real images",
    ),
    "nearest_train_distance": Known(
        "Nearest training image", "", "mean distance of a sample to its nearest training image",
        "nearest_train_distance_heldout", "held-out real images",
    ),
    "copied_share": Known("Copies", "lower", "share of samples far nearer to one training image than to others"),
    "sliced_wasserstein": Known(
        "Sliced Wasserstein distance", "lower", "distance of samples and real points",
        "sliced_wasserstein_reference", "random halves of the real points",
    ),
    "violation_rate": Known("Rule broken", "lower", "share of readable samples that break the rule of the data"),
    "unreadable_rate": Known("Unreadable", "lower", "share of samples of which nobody can tell"),
    "bits_per_dim": Known("Bits per dimension", "lower", "variational bound on held-out images"),
}  # fmt: skip
SPREAD = "_std"
REFERENCES = frozenset(about.reference for about in REPORTED.values())
TITLES = {
    "fid": "FID", "sfid": "sFID", "kid": "KID", "is": "Inception Score", "authpct": "AuthPct", "ct": "Copying score",
    "nearest": "Nearest distance",
}  # fmt: skip


def known(name: str) -> Known:
    """What is known of the metric called ``name``; of one that nobody knows, its name."""
    if name in REPORTED:
        return REPORTED[name]
    title = TITLES.get(name) or sentence(name.replace("_", " ")).removesuffix(".")
    metric = METRICS.get(name)
    return Known(title, metric.better, metric.describes) if metric else Known(title)


def paired(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{metric: (its value, its deviation or None)}: the deviation of "kid" is the entry "kid_std" beside it."""
    alone = [n for n in values if not (n.endswith(SPREAD) and n.removesuffix(SPREAD) in values)]
    return {name: (values[name], values.get(name + SPREAD)) for name in alone}


def sentence(text: str) -> str:
    """A text as a sentence of its own; "" stays that."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def uncapitalised(title: str) -> str:
    """A title within a sentence."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def good(better: str) -> str:
    """The end of a caption: which values are better."""
    return f"{better.capitalize()} is better." if better else ""
