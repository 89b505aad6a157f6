"""Does masked pre-training on nine classes help with few images of the tenth? (Lei et al. 2023, arXiv 2306.11363)

Pre-trained on the digits 0 to 8, with 75 % of the patches hidden or with all of them seen; then 18 images of a 9 at a
quarter of the rate, as in the paper. Judged by the 162 images of a 9 that no arm has seen. Few images are copied soon,
so that the best checkpoint of a run counts (its last one is stated beside); features know all ten digits.

Rule: confirmed where the best FID after masked pre-training is below that of scratch and not above 1.05 times that
after dense pre-training, each with its whole 95 % interval; not confirmed where one of the two is excluded.

Expected: 25 minutes on one core for 3 arms, 2 of pre-training, and 3 seeds. The gain in % is 100·(1 - ratio).
"""

from collections.abc import Mapping

from benchmarks.claims.common import SMALL, rule_of
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from benchmarks.claims.verdicts import Row
from configs import digits_dense

NINE = {"data": {"name": "digits", "classes": tuple(range(9))}, "steps": 2000}
MASKED = {"visibility": {"name": "patch", "ratio": 0.75}}
TUNED = {"schedule": {"name": "constant", "learning_rate": 5e-4, "warmup": 0}}


def gain(rows: Mapping[str, Row]) -> None:
    """Adds "gain in %": how much lower the best FID is than that of scratch, by seed."""
    level = rows["scratch"].figures["fid best"]
    for row in rows.values():
        row.figures["gain in %"] = [100 * (1 - a / b) for a, b in zip(row.figures["fid best"], level, strict=True)]


MEMORY = ("nearest", "copied")
CLAIM = Claim(
    "maskdm_transfer",
    "Does masked pre-training help with 18 images of a new class?",
    "MaskDM: 46 % better FID than from scratch on a small target set",
    {
        "cpu": Plan(
            config=digits_dense.get_config,
            changes={
                **SMALL,
                "steps": 1500,
                "condition": {"label": False},
                "data": {"name": "digits", "classes": (9,), "heldout": 162},
                "schedule": {"name": "constant", "learning_rate": 2e-3, "warmup": 50},
            },
            arms=(
                Arm("nine classes, masked", {**NINE, **MASKED}, compared=False),
                Arm("nine classes, dense", NINE, compared=False),
                Arm("scratch"),
                Arm("after masked", TUNED, source="nine classes, masked"),
                Arm("after dense", TUNED, source="nine classes, dense"),
            ),
            tests=(
                Test("fid best", "after masked", "scratch", below=1.0),
                Test("fid best", "after masked", "after dense", below=1.05),
            ),
            columns=("fid best", "gain in %", "fid", *MEMORY, "heldout loss"),
            panels=(
                Panel("curves", "fid", "steps", log=True),
                Panel("curves", "fid", "flops", log=True),
                Panel("bars", "gain in %"),
            ),
            every=150,
            along=("fid",),
            end=("fid", *MEMORY),
            reference="heldout",
            relate=gain,
            smoke_arms=("nine classes, dense", "scratch", "after masked", "after dense"),
            smoke_shared={"scratch": "after dense", "after masked": "after dense"},
            minutes=25,
        )
    },
    rule_of(__doc__),
)
