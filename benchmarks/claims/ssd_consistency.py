"""Does a sparse loss make the far ends of an image agree? (Zhao et al. 2026, arXiv 2602.02699)

Images of two shapes, one in each half, that have one colour; nothing else says what the other half holds. A sample is
broken where it violates this or cannot be read. The map of what a pixel depends on says how far the network looks.

Rule: confirmed where for DiT and for U-Net the share of broken samples at ratio 0.9 is less than at ratio 0 and less
than in the noise-matched dense run (differences below 0), each with its whole 95 % interval; not confirmed where one of
the four is excluded.

Expected: 50 minutes on one core for 6 arms and 3 seeds of 1,500 steps, most of them for the U-Net.
"""

from benchmarks.claims.common import consistency, rule_of
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from configs import consistency_dense

SPARSE = {"supervision": {"name": "sparse", "ratio": 0.9}}
NETWORKS = {
    "DiT": {"model": {"name": "dit", "patch": 2, "width": 64, "depth": 3, "heads": 4}},
    "U-Net": {
        "model": {"name": "unet", "base": 12, "groups": 4, "head_channels": 12, "multipliers": (1, 2, 2)},
        "batch": 16,
    },
}


def arms(name: str) -> tuple[Arm, ...]:
    network = NETWORKS[name]
    return (
        Arm(f"{name} dense", network),
        Arm(f"{name} 0.9", {**network, **SPARSE}),
        Arm(f"{name} matched", network, matches=(f"{name} dense", f"{name} 0.9")),
    )


CLAIM = Claim(
    "ssd_consistency",
    "Does a sparse loss keep far parts of an image consistent?",
    "Sparsely Supervised Diffusion: better spatial consistency, more use of context",
    {
        "cpu": Plan(
            config=consistency_dense.get_config,
            changes={"steps": 1500, "batch": 32, "schedule": {"warmup": 50}, "sample": {"steps": 20}},
            arms=tuple(arm for name in NETWORKS for arm in arms(name)),
            tests=tuple(
                Test("broken", f"{name} 0.9", f"{name} {other}", scale="difference", below=0.0)
                for name in NETWORKS
                for other in ("dense", "matched")
            ),
            columns=("broken", "violation_rate", "unreadable_rate", "outside", "distance", "heldout loss"),
            panels=(
                Panel("bars", "broken"),
                Panel("series", "outside", "t"),
                Panel("maps", "context"),
                Panel("curves", "heldout loss"),
            ),
            every=500,
            samples=500,
            extra=consistency,
            smoke_arms=("DiT dense", "DiT 0.9"),
            smoke_shared={"DiT 0.9": "DiT dense"},
            smoke={"data": {"images": 64, "heldout": 32}},
            minutes=50,
        )
    },
    rule_of(__doc__),
)
