"""Does a sparse loss keep a network from unlearning on few images? (Zhao et al. 2026, arXiv 2602.02699)

50, 200 and 1,000 digits to train on, 797 that no arm has seen to judge by, so that copies are not rewarded. The noise
of the dense control is matched to ratio 0.9, for every size.

Rule: confirmed where the last FID over the best one of ratio 0.9 is below that of the dense and of the noise-matched
dense run, with 50 and with 200 images, each with its whole 95 % interval; not confirmed where one of the four is
excluded.

Expected: 55 minutes on one core for 12 arms and 3 seeds of 2,500 steps (22 ms each; 20 s to measure 10 checkpoints).
"""

from benchmarks.claims.common import SMALL, rule_of
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from configs import digits_dense

SIZES = (50, 200, 1000)


def arms(size: int) -> tuple[Arm, ...]:
    data = {"data": {"name": "digits", "heldout": 797, "limit": size}}
    ratios = tuple(
        Arm(
            f"{ratio:g}, {size} images",
            {**data, "supervision": {"name": "sparse", "ratio": ratio}},
            x=size,
            line=f"{ratio:g}",
        )
        for ratio in (0.5, 0.9)
    )
    dense, sparse = f"dense, {size} images", ratios[-1].name
    control = Arm(f"matched, {size} images", data, matches=(dense, sparse), x=size, line="noise-matched dense")
    return Arm(dense, data, x=size, line="dense"), *ratios, control


MEMORY = ("nearest", "copied", "authpct", "ct")
CLAIM = Claim(
    "ssd_small_data",
    "Does a sparse loss help on few images?",
    "Sparsely Supervised Diffusion: on small sets the dense run becomes unstable, the sparse one does not",
    {
        "cpu": Plan(
            config=digits_dense.get_config,
            changes={**SMALL, "steps": 2500, "schedule": {"name": "constant", "learning_rate": 2e-3, "warmup": 50}},
            arms=tuple(arm for size in SIZES for arm in arms(size)),
            tests=tuple(
                Test("fid last/best", f"0.9, {size} images", f"{other}, {size} images", below=1.0)
                for size in SIZES[:2]
                for other in ("dense", "matched")
            ),
            columns=("fid", "fid best", "fid last/best", *MEMORY, "heldout loss"),
            panels=(
                Panel("curves", "fid", log=True),
                Panel("points", "fid last/best", "images"),
                Panel("points", "nearest", "images"),
                Panel("points", "copied", "images"),
            ),
            every=250,
            along=("fid",),
            end=("fid", *MEMORY),
            samples=500,
            reference="heldout",
            smoke_arms=("dense, 50 images", "0.9, 50 images"),
            smoke_shared={"0.9, 50 images": "dense, 50 images"},
            smoke={"data": {"limit": 50}},
            minutes=55,
        )
    },
    rule_of(__doc__),
)
