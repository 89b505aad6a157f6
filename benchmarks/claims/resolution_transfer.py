"""Do interpolated positions and a shifted schedule help from 4 to 8 pixels? (Berrada Ifriqi et al. 2024, 2411.03177)

`configs/digits_resolution.py`: 1,500 steps at 4 px that both transferring arms start from (on their own schedules),
then 1,500 at 8 px at a constant rate; patches have 1 px, so that 16 tokens become 64. "Steps to" are those at 8 px.

Rule: confirmed where interpolation and shift together reach the final FID of scratch (mean over seeds) in less than
half of the steps that scratch itself takes to it, and in fewer steps than interpolation alone, each with its whole 95 %
interval; not confirmed where one of the two is excluded.

Expected: 45 minutes on one core for 3 arms, 2 of pre-training, and 3 seeds. `benchmarks.resolution` has a shorter run
with one arm more, without interpolation.
"""

from collections.abc import Mapping
from functools import partial

from benchmarks.claims.common import QUALITY, rule_of, steps_to
from benchmarks.claims.plan import Arm, Claim, Panel, Plan, Test
from benchmarks.claims.verdicts import Row
from configs import digits_resolution

LOW = digits_resolution.LOW
INTERPOLATE = {"model": digits_resolution.INTERPOLATE}
TO_SCRATCH = "steps to scratch's fid"


def steps(rows: Mapping[str, Row]) -> None:
    steps_to(rows, "scratch", "fid", "fid")


CLAIM = Claim(
    "resolution_transfer",
    "Do interpolation and schedule shift carry a network to twice the resolution?",
    "Improved conditioning: positional interpolation and noise-schedule scaling",
    {
        "cpu": Plan(
            config=partial(digits_resolution.get_config, "scratch"),
            changes={"steps": 1500},
            arms=(
                Arm("4 px", {**LOW, "steps": 1500, "shift": 1.0}, compared=False),
                Arm("4 px shifted", {**LOW, "steps": 1500}, compared=False),
                Arm("scratch"),
                Arm("interpolation", INTERPOLATE, source="4 px"),
                Arm("interpolation and shift", INTERPOLATE, source="4 px shifted"),
            ),
            tests=(
                Test(TO_SCRATCH, "interpolation and shift", "scratch", below=0.5),
                Test(TO_SCRATCH, "interpolation and shift", "interpolation", below=1.0),
            ),
            columns=("fid", TO_SCRATCH, *QUALITY[1:], "heldout loss"),
            panels=(
                Panel("curves", "fid", "steps", log=True),
                Panel("curves", "fid", "flops", log=True),
                Panel("bars", TO_SCRATCH),
            ),
            every=100,
            along=("fid",),
            end=QUALITY,
            relate=steps,
            smoke_arms=("scratch", "interpolation and shift"),
            smoke_shared={"interpolation and shift": "scratch"},
            minutes=45,
        )
    },
    rule_of(__doc__),
)
