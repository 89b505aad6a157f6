"""Do the four methods compose? SSD, debias, MaskDM and disentangled conditioning, each alone and all together.

On the canvas of `configs/digits_controls.py`, which has controls to condition on. The numbers of steps are such that
all arms cost the same FLOPs (within 3 %), so that their ends are compared: MaskDM takes half of its FLOPs with 75 % of
the patches hidden, a token for the class costs a few steps. Debias is normalised.

Rule: confirmed where the FID of all together is below that of the baseline, and not above 1.1 times that of any method
alone, each with its whole 95 % interval; not confirmed where one of the five is excluded.

Expected: 60 minutes on one core for 6 arms and 3 seeds of about 2,000 steps.
"""

from typing import Any

from benchmarks.claims.common import QUALITY, rule_of
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test, Whole
from configs import digits_controls

STEPS = 2000
SPARSE = {"supervision": {"name": "sparse", "ratio": 0.5}}
DEBIAS = {"weighting": {"name": "debias"}, "loss": {"normalise": True}}
ENTANGLED = {
    "model": {"conditioning": Whole({"label": {}, "controls": {}})},
    "condition": {"phase": {"name": "none"}},
}
TOKEN = {
    "model": {"conditioning": Whole({"label_token": {}, "controls": {}})},
    "condition": {"phase": {"name": "cosine"}},
}


def pretrained(masked: int, full: int) -> dict[str, Any]:
    hidden = {"visibility": {"name": "patch", "ratio": 0.75}, "schedule": {"final": 1.0}}
    return {"stages": ({"name": "masked", "steps": masked, **hidden}, {"name": "full", "steps": full})}


ALONE = ("SSD", "debias", "MaskDM", "conditioning")
CLAIM = Claim(
    "compose",
    "Do sparse loss, debiased weighting, masked pre-training and disentangled conditioning compose?",
    "All four sources, each claiming a gain of its own",
    {
        "cpu": Plan(
            config=digits_controls.get_config,
            changes={"steps": STEPS, "sample": {"steps": 20}},
            arms=(
                Arm("baseline", ENTANGLED),
                Arm("SSD", {**ENTANGLED, **SPARSE}),
                Arm("debias", {**ENTANGLED, **DEBIAS}),
                Arm("MaskDM", {**ENTANGLED, **pretrained(3600, 1000)}),
                Arm("conditioning", {**TOKEN, "steps": 1880}),
                Arm("all together", {**TOKEN, **SPARSE, **DEBIAS, **pretrained(3000, 940)}),
            ),
            tests=(
                Test("fid", "all together", "baseline", below=1.0),
                *(Test("fid", "all together", name, below=1.1) for name in ALONE),
            ),
            columns=(*QUALITY, "heldout loss"),
            panels=(Panel("bars", "fid"), Panel("bars", "class_accuracy"), Panel("curves", "heldout loss", "flops")),
            every=1000,
            end=QUALITY,
            samples=1000,
            smoke_arms=("all together",),
            smoke={"model": {"patch": 4}},
            minutes=60,
        )
    },
    rule_of(__doc__),
)
