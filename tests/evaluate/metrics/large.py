"""How long 50,000 samples against 50,000 take, and how much memory: ``python -m tests.evaluate.metrics.large``.

Options, in this order: the number of samples, and of dimensions. Metrics of one kind come in one line, as they share
their searches; FID and KID also at a fifth of the samples, to see that they are linear in n.
"""

import resource
import sys
import time

import numpy as np

from maskdiff_jax.evaluate.metrics import Images, compute
from tests.evaluate.metrics.clouds import mixture

GROUPS = (
    ("fid",),
    ("kid",),
    ("precision", "recall", "density", "coverage"),
    ("nearest", "copied", "authpct", "ct"),
)


def gigabytes() -> float:
    """The peak of the memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(n: int = 50_000, d: int = 64) -> None:
    draw = np.random.default_rng(0)
    fake, real, heldout = (mixture(draw, n, d) for _ in range(3))
    print(f"{n:,} samples against {n:,}, {d} dimensions; at the start {gigabytes():.2f} GB")
    for names in GROUPS:
        for count in (n // 5, n):
            start = time.perf_counter()
            some = Images(fake[:count]), Images(real[:count])
            values = compute(names, *some, train=real[:count], heldout=heldout[: count // 5])
            seconds = time.perf_counter() - start
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{count:>7,} {seconds:8.1f} s {count / seconds:9,.0f} images/s {gigabytes():6.2f} GB peak  {shown}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
