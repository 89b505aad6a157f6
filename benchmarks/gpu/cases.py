"""The cases: what each measures, and the bars that it is held to."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from benchmarks.gpu.lab import Lab
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
    return _beside_peer(lab, "training", setup, goal=0.4, aim=0.6)


def sampling(lab: Lab, setup: Setup) -> Result:
    """Images by Euler's method with guidance in one doubled batch, a call of the sampler at a time."""
    return _beside_peer(lab, "sampling", setup)


def masked(lab: Lab, setup: Setup) -> Result:
    """How much faster a step is that sees fewer tokens, against how much less it computes."""
    with lab.side("ours", alone=True) as ours:
        lab.about(ours)
        found = lab.search(ours, "training", setup, "ours", until=0.5)
        setup = setup._replace(batch=found.batch)
        work = {share: ours.call("flops", setup._replace(masked=share)) for share in (0.0, *MASKED)}
        ways = lab.ready(ours, "masked", (setup, (0.0, *MASKED)), found)
        measured = lab.alternate(ways)
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
        lab.about(ours)
        found = lab.trial(ours, "training", setup, "ours")
        ways = lab.ready(ours, "resident", (setup, lab.small or IMAGES), found)
        measured = lab.alternate(ways)
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


def _beside_peer(lab: Lab, kind: str, setup: Setup, goal: float | None = None, aim: float | None = None) -> Result:
    """Rates of all ways, their shares of the card's peak and of a matrix product, and the ratio to the faster peer.

    ``goal`` and ``aim``: of the share of the peak, where it is judged; the ratio is then, too.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(lab.side("ours"))
        lab.about(ours)
        work, product = _work(ours, kind, setup), ours.call("ceiling", lab.side_of_products)
        found = {"ours": lab.search(ours, kind, setup, "ours", until=0.5)}
        ways, peaks = lab.ready(ours, kind, setup, found["ours"]), {}
        if lab.torch:
            peer = stack.enter_context(lab.side("peer"))
            try:
                lab.about_peer(peer)
                found["eager"] = lab.search(peer, f"{kind} eager", setup, "eager", until=0.6)
                ways |= lab.compiled(peer, kind, setup, found["eager"])
                peaks["peer"] = peer.call("peak_bytes")
            except (RuntimeError, TimeoutError) as error:
                lab.notes.append(f"Ours alone, as PyTorch was not ready: {error}.")
        peaks["ours"] = ours.call("peak_bytes")
        measured = lab.alternate(ways)

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
        "peak_bytes": peaks,
    }
    others = {name: way.seconds for name, way in measured.items() if name != "ours"}
    peer_way = timing.best(others) if others else None
    ratio = timing.faster(own.seconds, others[peer_way]) if peer_way else None
    if ratio is not None:
        figures |= {"peer": peer_way, "ratio": ratio._asdict()}
        rows.append((f"ours / {peer_way}", "", interval(ratio), "", "", ""))
    if goal is not None:
        judged = ratio.median if ratio is not None and peer_way == "compiled" else None
        bars.append(Bar("MFU against the card's peak", shares["ours"][0], least=goal, aim=aim))
        bars.append(Bar("ours / compiled", judged, least=1.0, aim=1.2))
    head = ("way", "batch", "images/s", "TFLOP/s", "of the peak", "of a matrix product")
    return Result(figures, head, tuple(rows), tuple(bars))


def _work(ours: Any, kind: str, setup: Setup) -> float:
    """FLOPs of an image: of sampling, each call of the network a third of training, two for guidance."""
    training = ours.call("flops", setup)
    return training if kind == "training" else training / 3 * setup.steps * (1 if setup.guidance == 1 else 2)


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
