"""Is masked pre-training cheaper than training on everything? (Lei et al. 2023, arXiv 2306.11363)

All arms take 2,400 steps at one constant rate; where there is pre-training it takes the first half. A masked step is
cheaper, so that an arm ends before scratch does in FLOPs and seconds; there, both curves are compared.

Rule: confirmed where the FID of pre-training with 75 % of the patches hidden is below that of scratch at equal FLOPs
and at equal seconds, each with its whole 95 % interval; not confirmed where one of the two is excluded.

Expected: 30 minutes on one core for 6 arms and 3 seeds. Seconds mean what they say only where nothing else runs.
"""

from benchmarks.claims.common import QUALITY, SMALL, rule_of
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from configs import digits_dense

STEPS = 1200


def hidden(name: str, **options: float) -> dict:
    masked = {"name": "masked", "steps": STEPS, "visibility": {"name": name, **options}}
    return {"stages": (masked, {"name": "full", "steps": STEPS})}


AT = ("steps", "flops", "seconds")
CLAIM = Claim(
    "maskdm_compute",
    "Does masked pre-training pay at equal compute?",
    "MaskDM: about four times less training",
    {
        "cpu": Plan(
            config=digits_dense.get_config,
            changes={
                **SMALL,
                "steps": 2 * STEPS,
                "schedule": {"name": "constant", "learning_rate": 2e-3, "warmup": 50},
            },
            arms=(
                Arm("scratch"),
                *(Arm(f"patch {ratio:.0%}", hidden("patch", ratio=ratio)) for ratio in (0.5, 0.75, 0.9)),
                Arm("block 75%", hidden("block", ratio=0.75, block=2)),
                Arm("crop 75%", hidden("crop", side=2)),
            ),
            tests=tuple(Test("fid", "patch 75%", "scratch", below=1.0, at=axis) for axis in AT[1:]),
            columns=("fid", *QUALITY[1:], "heldout loss"),
            panels=tuple(Panel("curves", "fid", axis, log=True) for axis in AT),
            every=200,
            along=("fid",),
            end=QUALITY,
            smoke_arms=("scratch", "patch 75%"),
            smoke_shared={"scratch": "patch 75%"},
            minutes=30,
        )
    },
    rule_of(__doc__),
)
