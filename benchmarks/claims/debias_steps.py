"""Does the debiased weighting need fewer sampling steps and iterations? (Yu et al. 2024, arXiv 2310.08442)

The paper's setting in small: linear betas, noise predicted, t uniform over 1,000 steps; on tinted digits, where a
colour shift shows. All weightings are normalised, so that clipping and rate mean the same, but for one debias that is
raw. Samples by DDIM, which adds no noise, from the same noise for every number of steps.

Rule: confirmed where with 10 sampling steps the FID of debias (normalised) is below that of constant on eps, and it
takes fewer iterations to constant's best FID (at 25 sampling steps, mean over seeds) than constant itself, each with
its whole 95 % interval; not confirmed where one of the two is excluded.

Expected: 50 minutes on one core for 6 arms and 3 seeds of 2,500 steps.
On a GPU: CIFAR-10, DiT-S/2 (33 M parameters), constant on eps, Min-SNR and debias, one seed.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from benchmarks.claims.common import SMALL, TINTED, bias_by_level, rule_of, steps_to
from benchmarks.claims.gpu import CIFAR, NOTE, SECONDS
from benchmarks.claims.judge import View
from benchmarks.claims.plan import Arm, Claim, Figures, Panel, Plan, Test
from benchmarks.claims.verdicts import Row
from configs import cifar_debias, cifar_dense, digits_dense
from maskdiff_jax.data import to_uint8
from maskdiff_jax.evaluate.bias import colour_shift
from maskdiff_jax.reporting import labelled

STEPS = (5, 10, 25, 50, 100, 250)
GPU_STEPS = STEPS[:4]
SMOKE_STEPS = (10,)
SHARED = ("process", "prediction", "inputs", "times")
SETTING = {
    **{name: getattr(cifar_debias.get_config(), name).to_dict() for name in SHARED},
    "loss": {"normalise": True},
    "sample": {"sampler": {"name": "ddim"}, "spacing": {"name": "respaced"}, "steps": 25},
    "evaluate": {"space": "eps"},
    "model": {"level_scale": 1.0},
}


def by_steps(view: View, steps: tuple[int, ...] = STEPS) -> Figures:
    """ "fid@n" and "chroma@n", the colour shift against the most steps, for n sampling steps; and the bias by level."""
    steps = SMOKE_STEPS if view.tools.smoke else steps
    drawn = {n: view.tools.draw(view, n, view.plan.samples) for n in steps}
    found = {f"fid@{n}": view.tools.score(view, ("fid",), to_uint8(images))["fid"] for n, images in drawn.items()}
    means = {n: images.mean((1, 2), dtype=np.float64) for n, images in drawn.items()}
    real = labelled(view.experiment, view.experiment.dataset.heldout)[0].mean((1, 2), dtype=np.float64)
    found |= {f"chroma@{shift.steps}": shift.chroma for shift in colour_shift(means, real)}
    return found | bias_by_level(view)


def weighting(name: str, **options) -> dict:
    return {"weighting": {"name": name, **options}}


def iterations(rows: Mapping[str, Row]) -> None:
    steps_to(rows, "constant eps", "fid", "fid best")


ARMS = (
    Arm("constant eps", weighting("constant", space="eps")),
    Arm("constant x", weighting("constant", space="x")),
    Arm("P2", weighting("p2")),
    Arm("Min-SNR", weighting("min_snr")),
    Arm("debias", weighting("debias")),
    Arm("debias raw", {**weighting("debias"), "loss": {"normalise": False}}),
)
TO_BEST = "steps to constant eps's fid best"
CPU = Plan(
    config=digits_dense.get_config,
    changes={**SMALL, **TINTED, **SETTING, "model": {**SMALL["model"], "level_scale": 1.0}, "steps": 2500},
    arms=ARMS,
    tests=(
        Test("fid@10", "debias", "constant eps", below=1.0),
        Test(TO_BEST, "debias", "constant eps", below=1.0),
    ),
    columns=(*(f"fid@{n}" for n in STEPS), "chroma@5", "chroma@25", "offset", "mse x", TO_BEST),
    panels=(
        Panel("series", "fid", "sampling steps", log=True),
        Panel("series", "chroma", "sampling steps"),
        Panel("series", "offset", "t"),
        Panel("curves", "fid", log=True),
    ),
    every=250,
    along=("fid",),
    extra=by_steps,
    relate=iterations,
    smoke={"data": {"tint": False}, "sample": {"steps": 10}},
    smoke_arms=("constant eps", "debias"),
    smoke_shared={"debias": "constant eps"},
    minutes=50,
)
GPU = CPU._replace(
    config=cifar_dense.get_config,
    changes={**CIFAR, **SETTING, "sample": {**SETTING["sample"], "clip": True}},
    arms=tuple(arm for arm in ARMS if arm.name in ("constant eps", "Min-SNR", "debias")),
    columns=(*(f"fid@{n}" for n in GPU_STEPS), "chroma@5", "chroma@25", "offset", "mse x", TO_BEST),
    extra=partial(by_steps, steps=GPU_STEPS),
    every=1000,
    samples=1000,
    data="path",
    note=NOTE,
    seconds=SECONDS,
)
CLAIM = Claim(
    "debias_steps",
    "Does debiased weighting save sampling steps and iterations?",
    "Debias: better most of all at few sampling steps, and constant's final FID in about 40 % of the iterations",
    {"cpu": CPU, "gpu": GPU},
    rule_of(__doc__),
)
