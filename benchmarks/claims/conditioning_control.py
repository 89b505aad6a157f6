"""Does disentangled conditioning keep content when only a control changes? (Berrada Ifriqi et al. 2024, 2411.03177)

`configs/digits_controls.py`: digits flipped, enlarged and faded somewhere on a canvas. Entangled: class and controls
are summed into adaLN at all noise levels. Class in attention: it is a token. Phased: and low-level controls are let in
as the noise goes. Two-scale: that network, with guidance of its own for controls. `benchmarks.controls` says how drift
and obedience are measured. Guidance is 2 for the class; two-scale has 2 for the controls, too.

Rule: confirmed where the drift of the phased arm is below that of the entangled one for original size and for contrast,
and its share of offsets obtained is not lower by 0.05 or more, each with its whole 95 % interval; not confirmed where
one of the three is excluded.

Expected: 60 minutes on one core for 3 networks and 3 seeds of 3,000 steps.
"""

from functools import partial
from typing import Any

from benchmarks import controls
from benchmarks.claims.common import QUALITY, rule_of
from benchmarks.claims.judge import View
from benchmarks.claims.plan import Arm, Claim, Figures, Panel, Plan, Test, Whole
from configs import digits_controls

DRIFTS = tuple(f"drift, {name}" for name in controls.CHANGES)


def obedience(view: View) -> Figures:
    """All figures of `benchmarks.controls`: obedience, and drift when one low-level control changes."""
    e, tools = view.experiment, view.tools
    reader = tools.once("reader", lambda: controls.make_reader(e, 1 if tools.smoke else 4))
    count = view.plan.samples if tools.smoke else 250
    draw = partial(tools.sampler(view, None, count), view.params)
    return dict(controls.measure(e, reader, draw, count))


def arm(name: str, conditioning: dict[str, Any], phase: str, **options: Any) -> Arm:
    changes = {"model": {"conditioning": Whole(conditioning)}, "condition": {"phase": {"name": phase}}}
    return Arm(name, changes, **options)


ENTANGLED, TOKEN = {"label": {}, "controls": {}}, {"label_token": {}, "controls": {}}
TWO_SCALE = {"sample": {"guidance": {"name": "two_scale", "semantic": 2.0, "control": 2.0}}}
CLAIM = Claim(
    "conditioning_control",
    "Does content stay when only a control changes?",
    "Improved conditioning: semantics in attention and phased controls disentangle",
    {
        "cpu": Plan(
            config=digits_controls.get_config,
            changes={"steps": 3000, "sample": {"steps": 20, "guidance": {"scale": 2.0}}},
            arms=(
                arm("entangled adaLN", ENTANGLED, "none"),
                arm("class in attention", TOKEN, "none"),
                arm("phased", TOKEN, "cosine"),
                Arm("two-scale", TWO_SCALE, network="phased"),
            ),
            tests=(
                *(Test(name, "phased", "entangled adaLN", below=1.0) for name in DRIFTS),
                Test("offset", "phased", "entangled adaLN", scale="difference", above=-0.05),
            ),
            columns=("fid", *DRIFTS, "offset", "flip", "original size", "contrast", "class", "heldout loss"),
            panels=(
                Panel("bars", DRIFTS[0]),
                Panel("bars", DRIFTS[1]),
                Panel("bars", "offset"),
                Panel("bars", "fid"),
            ),
            every=1500,
            end=QUALITY,
            samples=1000,
            extra=obedience,
            smoke_arms=("phased", "two-scale"),
            smoke={"model": {"patch": 4}},
            minutes=60,
        )
    },
    rule_of(__doc__),
)
