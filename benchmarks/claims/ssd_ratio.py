"""Is it safe, or even good, to leave out most of the regression's outputs? (Zhao et al. 2026, arXiv 2602.02699)

On tinted digits, with units of an element (a channel of a pixel) and of a whole pixel. A mask on the loss alone adds
nothing but gradient noise, so that a dense run whose batch is cut until it is as noisy decides (`noise`). Arms share
network, data, optimiser, noise and steps.

Rule: confirmed where the FID of ratio 0.98 (elements) is below 1.1 times that of the dense run, and at 0.9 and at 0.98
the FID is below that of the noise-matched dense run, each with its whole 95 % interval; not confirmed where one of the
three is excluded.

Expected: 35 minutes on one core for 9 arms and 3 seeds of 2,000 steps (22 ms each; 10 s to measure a run).
On a GPU: CIFAR-10, DiT-S/2 (33 M parameters), ratios 0, 0.5, 0.9 and 0.98 of elements, one seed.
"""

from benchmarks.claims.common import QUALITY, SMALL, TINTED, rule_of
from benchmarks.claims.gpu import CIFAR, NOTE, SECONDS
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from configs import cifar_dense, digits_dense


def sparse(ratio: float, unit: str) -> dict:
    return {"supervision": {"name": "sparse", "ratio": ratio, "unit": unit}}


UNITS = tuple(
    Arm(f"{unit} {ratio:g}", sparse(ratio, unit), x=ratio, line=unit)
    for unit in ("element", "pixel")
    for ratio in (0.5, 0.9, 0.98)
)
MATCHED = tuple(
    Arm(f"matched {ratio:g}", matches=("dense", f"element {ratio:g}"), x=ratio, line="noise-matched dense")
    for ratio in (0.9, 0.98)
)
DENSE = Arm("dense", x=0.0)
PANELS = (
    Panel("points", "fid", "ratio", log=True),
    Panel("points", "fid", "supervised", log=True),
    Panel("points", "class_accuracy", "ratio"),
    Panel("points", "recall", "ratio"),
)

CPU = Plan(
    config=digits_dense.get_config,
    changes={**SMALL, **TINTED, "steps": 2000},
    arms=(DENSE, *UNITS, *MATCHED),
    tests=(
        Test("fid", "element 0.98", "dense", below=1.1),
        *(Test("fid", f"element {ratio}", f"matched {ratio}", below=1.0) for ratio in ("0.9", "0.98")),
    ),
    columns=(*QUALITY, "heldout loss"),
    panels=PANELS,
    every=500,
    end=QUALITY,
    samples=1000,
    smoke={"data": {"tint": False}},
    smoke_end=QUALITY,
    smoke_shared={"element 0.98": "dense"},
    smoke_arms=("dense", "element 0.98", "matched 0.98"),
    minutes=35,
)
GPU = Plan(
    config=cifar_dense.get_config,
    changes=CIFAR,
    arms=(DENSE, *(arm for arm in UNITS if arm.line == "element")),
    tests=(Test("fid", "element 0.98", "dense", below=1.1),),
    columns=(*QUALITY, "heldout loss"),
    panels=PANELS[:3],
    every=1000,
    end=QUALITY,
    samples=1000,
    data="path",
    note=NOTE,
    seconds=SECONDS,
)
CLAIM = Claim(
    "ssd_ratio",
    "How many outputs can go without loss?",
    "Sparsely Supervised Diffusion: safe up to 98 % of pixels",
    {"cpu": CPU, "gpu": GPU},
    rule_of(__doc__),
)
