"""The cases: what each measures, and the bars that it is held to."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from benchmarks.gpu.lab import Lab, Measured
from benchmarks.gpu.report import Bar, interval, number, percent
from benchmarks.gpu.search import Search
from benchmarks.peers import timing
from benchmarks.peers.setups import Setup

MASKED = (0.5, 0.75, 0.9)  # shares of tokens hidden
IMAGES = 50_000  # of CIFAR-10's training images


class Result(NamedTuple):
    """Figures for the JSON file; a table's head and rows; the bars."""

    figures: dict[str, Any]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[Bar, ...]


def dense(lab: Lab, setup: Setup) -> Result:
    """Training on all tokens, each side at its best batch, beside PyTorch where it is there."""
    with ExitStack() as stack:
        ours = stack.enter_context(lab.side("ours"))
        work, product = ours.call("flops", setup), ours.call("ceiling", lab.side_of_products)
        found = {"ours": lab.search(ours, "training", setup, "ours", until=0.35)}
        peer = stack.enter_context(lab.side("peer")) if lab.torch else None
        if peer is not None:
            found["eager"] = lab.search(peer, "training eager", setup, "eager", until=0.55)
        ways = lab.ready(ours, "training", setup, found["ours"])
        if peer is not None:
            ways |= lab.compiled(peer, "training", setup, found["eager"])
        measured = lab.alternate(ways)
        peaks = {name: side.call("peak_bytes") for name, side in (("ours", ours), ("peer", peer)) if side is not None}
        lab.about(ours, peer)
    return _beside_peer(lab, measured, found, work, product, peaks, goal=0.4, aim=0.6)


def sampling(lab: Lab, setup: Setup) -> Result:
    """Images by Euler's method with guidance in one doubled batch, a call of the sampler at a time."""
    with ExitStack() as stack:
        ours = stack.enter_context(lab.side("ours"))
        # a forward pass is a third of training, and both halves of a doubled batch take one
        work = ours.call("flops", setup) / 3 * setup.steps * (1 if setup.guidance == 1 else 2)
        product = ours.call("ceiling", lab.side_of_products)
        found = {"ours": lab.search(ours, "sampling", setup, "ours", until=0.35)}
        peer = stack.enter_context(lab.side("peer")) if lab.torch else None
        ways = lab.ready(ours, "sampling", setup, found["ours"])
        if peer is not None:
            found["eager"] = found["ours"]
            ways |= lab.compiled(peer, "sampling", setup, found["eager"])
        measured = lab.alternate(ways)
        peaks = {name: side.call("peak_bytes") for name, side in (("ours", ours), ("peer", peer)) if side is not None}
        lab.about(ours, peer)
    return _beside_peer(lab, measured, found, work, product, peaks)


def masked(lab: Lab, setup: Setup) -> Result:
    """How much faster a step is that sees fewer tokens, against how much less it computes."""
    with lab.side("ours", alone=True) as ours:
        found = lab.search(ours, "training", setup, "ours", until=0.35)
        setup = setup._replace(batch=found.batch)
        work = {share: ours.call("flops", setup._replace(masked=share)) for share in (0.0, *MASKED)}
        ways = lab.ready(ours, "masked", (setup, (0.0, *MASKED)), found)
        measured = lab.alternate(ways)
        lab.about(ours)
    rows, bars = [], []
    whole = measured["0.0"]
    for share, flops in work.items():
        own = measured[str(share)]
        less = work[0.0] / flops
        ratio = timing.faster(own.seconds, whole.seconds)
        kept = timing.Ratio(ratio.median / less, ratio.low / less, ratio.high / less, ratio.coverage)
        rows.append((f"{share:.0%}", number(own.rate), number(less), interval(ratio), interval(kept)))
        if share:
            bars.append(Bar(f"faster with {share:.0%} hidden, of what the FLOPs promise", kept.median, least=0.85))
    figures = {
        "batch": setup.batch,
        "flops_per_image": {str(share): flops for share, flops in work.items()},
        "ways": {name: way.figures() for name, way in measured.items()},
        "search": _searched(found),
    }
    head = ("hidden", "images/s", "FLOPs fewer", "faster (interval)", "of the FLOPs' (interval)")
    return Result(figures, head, tuple(rows), tuple(bars))


def resident(lab: Lab, setup: Setup) -> Result:
    """A step on images that stay on the device, with their indices and augmentation, against one on a ready batch."""
    with lab.side("ours", alone=True) as ours:
        found = lab.trial(ours, "training", setup, "ours")
        ways = lab.ready(ours, "resident", (setup, lab.small or IMAGES), found)
        measured = lab.alternate(ways)
        lab.about(ours)
    data, constant = measured["data"], measured["constant"]
    ratio = timing.faster(constant.seconds, data.seconds)
    rows = [("a batch that is ready", number(constant.rate), ""), ("data", number(data.rate), interval(ratio, 3))]
    figures = {
        "batch": setup.batch,
        "ways": {name: way.figures() for name, way in measured.items()},
        "ratio": ratio._asdict(),
    }
    bar = Bar("step with data, of the step on a ready batch", ratio.median, most=1.03)
    return Result(figures, ("step on", "images/s", "time (interval)"), tuple(rows), (bar,))


def _beside_peer(
    lab: Lab,
    measured: Mapping[str, Measured],
    found: Mapping[str, Search],
    work: float,
    product: float,
    peaks: Mapping[str, int | None],
    goal: float | None = None,
    aim: float | None = None,
) -> Result:
    """Rates of all ways, their shares of the card's peak and of a matrix product, and the ratio to the faster peer.

    ``work``: FLOPs of an image; ``product``: FLOP/s of a large matrix product; ``goal`` and ``aim``: of the share of
    the peak, where it is judged; the ratio is then, too.
    """
    rows, bars = [], []
    shares = {name: (lab.share_of_peak(way.rate * work), way.rate * work / product) for name, way in measured.items()}
    for name, way in measured.items():
        rate = way.rate * work
        rows.append((name, str(way.images), number(way.rate), number(rate / 1e12), *map(percent, shares[name])))
    own = measured["ours"]
    figures: dict[str, Any] = {
        "flops_per_image": work,
        "matmul_flops_per_second": product,
        "peak_flops_per_second": lab.peak,
        "ways": {name: way.figures() for name, way in measured.items()},
        "mfu": {name: {"of_peak": of_peak, "of_product": of_product} for name, (of_peak, of_product) in shares.items()},
        "search": {name: _searched(search) for name, search in found.items()},
        "peak_bytes": dict(peaks),
    }
    if goal is not None:
        bars.append(Bar("MFU against the card's peak", shares["ours"][0], least=goal, aim=aim))
    others = {name: way.seconds for name, way in measured.items() if name != "ours"}
    if others:
        peer = timing.best(others)
        ratio = timing.faster(own.seconds, others[peer])
        figures |= {"peer": peer, "ratio": ratio._asdict()}
        rows.append((f"ours / {peer}", "", interval(ratio), "", "", ""))
        if goal is not None:
            bars.append(Bar(f"ours / {peer}", ratio.median if peer == "compiled" else None, least=1.0, aim=1.2))
    head = ("way", "batch", "images/s", "TFLOP/s", "of the peak", "of a matrix product")
    return Result(figures, head, tuple(rows), tuple(bars))


def _searched(search: Search) -> dict[str, Any]:
    return search._asdict() | {"tried": [trial._asdict() for trial in search.tried]}


class Case(NamedTuple):
    """``measure(lab, setup)``; ``setup.batch`` is where the search for the best one begins."""

    measure: Callable[[Lab, Setup], Result]
    setup: Setup


LATENTS: dict[str, Any] = {"shape": (32, 32, 4), "classes": 1000}
B2 = {"patch": 2, "width": 768, "depth": 12, "heads": 12}
XL2 = {"patch": 2, "width": 1152, "depth": 28, "heads": 16}
S2 = {"patch": 2, "width": 384, "depth": 12, "heads": 6}

CASES = {
    "dit_b2": Case(dense, Setup("DiT-B/2 on latents, training", "dit", B2, 256, **LATENTS)),
    "dit_xl2": Case(dense, Setup("DiT-XL/2 on latents, training", "dit", XL2, 64, **LATENTS)),
    "masked": Case(masked, Setup("DiT-B/2 on latents, hidden tokens", "dit", B2, 256, **LATENTS)),
    "cifar_step": Case(resident, Setup("DiT-S/2 on CIFAR-10's shape, data on the device", "dit", S2, 256)),
    "sampling": Case(
        sampling, Setup("DiT-B/2 on latents, 50 guided steps", "dit", B2, 64, **LATENTS, steps=50, guidance=4.0)
    ),
}
