"""What a claim is made of, as data: its arms, how they are measured, and the comparisons that decide it."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

Figures = dict[str, Any]


class Whole(dict):
    """A section that takes the place of another one, instead of being merged into it."""


BUDGETS = ("cpu", "gpu")


class Arm(NamedTuple):
    """One arm: what of the config is its own, in words and as ``changes`` (keys as in `Plan.changes`).

    ``source``: the arm from whose last parameters it starts, seed by seed. ``network``: the arm whose trained networks
    it samples with other settings, so that nothing is trained. ``matches`` (dense, sparse): its batch is cut until the
    dense gradient is as noisy as that of the sparse arm (`noise.matched_batch`). ``compared``: False for pre-training
    that others start from; it has no row. ``x``: its place on the horizontal axis of a picture, on the line ``line``.
    """

    name: str
    changes: Mapping[str, Any] = {}
    source: str = ""
    network: str = ""
    matches: tuple[str, str] | None = None
    compared: bool = True
    x: float | None = None
    line: str = ""


class Test(NamedTuple):
    """A comparison of two arms, seed by seed: ``figure`` of ``arm`` to that of ``other``.

    ``scale`` 'ratio' is arm/other, averaged as a logarithm, 'difference' arm - other. It holds where the whole 95 %
    interval is below ``below`` (or above ``above``), fails where the whole interval is on the other side or touches it,
    and is open otherwise. ``at`` 'steps', 'flops' or 'seconds': the value of ``other`` is read off its curve at what
    the arm had cost, or the arm's at the cost of the other where that one is cheaper.
    """

    __test__ = False  # pytest takes it for one of its own

    figure: str
    arm: str
    other: str
    scale: str = "ratio"
    below: float | None = None
    above: float | None = None
    at: str = ""


class Panel(NamedTuple):
    """A panel of the picture: ``kind`` is a key of `picture.PANELS`, ``x`` what its horizontal axis is."""

    kind: str
    figure: str
    x: str = "steps"
    log: bool = False


class Plan(NamedTuple):
    """A claim at one budget.

    ``config()`` is a config of configs/, ``changes`` what all arms change of it: nested dicts in which a part of
    another name is replaced as a whole. ``along`` are the metrics at every kept checkpoint, one each ``every`` steps,
    ``end`` those at the last one, of ``samples`` images; ``reference`` says against which real images: 'train' or
    'heldout'. ``extra(view)`` measures what is not a metric of images, ``relate(rows)`` what needs several arms.
    ``columns`` are the figures of the table. ``tests`` together are the verdict. ``smoke_arms`` and ``smoke``: what the
    smoke version keeps and changes, ``smoke_shared`` which arms take the network of another one there; ``last`` is put
    over every arm's config. ``smoke_end`` are the metrics at the end there, by default those of ``end`` that need no
    classifier. ``data``: the option of ``config.data`` that --data gives, and ``note`` a caveat of the
    data. ``minutes`` are expected of 3 seeds on one core. ``seconds``: of each arm's training, which sets the number of
    steps; 0 leaves it as it is.
    """

    config: Callable[[], ConfigDict]
    changes: Mapping[str, Any]
    arms: tuple[Arm, ...]
    tests: tuple[Test, ...]
    columns: tuple[str, ...]
    panels: tuple[Panel, ...]
    every: int
    along: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    samples: int = 500
    reference: str = "train"
    extra: Callable[[Any], Figures] | None = None
    relate: Callable[[Mapping[str, Any]], None] | None = None
    smoke_arms: tuple[str, ...] = ()
    smoke_shared: Mapping[str, str] = {}
    smoke_end: tuple[str, ...] = ()
    smoke: Mapping[str, Any] = {}
    data: str = ""
    note: str = ""
    minutes: float = 0.0
    seconds: float = 0.0
    last: Mapping[str, Any] = {}


class Claim(NamedTuple):
    """A claim of a source: ``question`` in a sentence, ``source`` in a few words, a `Plan` for each budget it has."""

    name: str
    question: str
    source: str
    plans: Mapping[str, Plan]
    rule: str


def arm_of(plan: Plan, name: str) -> Arm:
    """The arm called ``name``. Raises KeyError where there is none."""
    found = {arm.name: arm for arm in plan.arms}
    return found[name]


def overlay(section: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Put ``changes`` into a config, in place: sections merge, a part of another name is replaced as a whole."""
    with section.ignore_type(), section.unlocked():
        for key, value in changes.items():
            old = section.get(key)
            if isinstance(value, Mapping) and isinstance(old, ConfigDict) and not isinstance(value, Whole):
                if "name" in value and value["name"] != old.get("name"):
                    section[key] = ConfigDict(copy.deepcopy(dict(value)))
                else:
                    overlay(old, value)
            else:
                section[key] = copy.deepcopy(dict(value)) if isinstance(value, Mapping) else copy.deepcopy(value)


def shortened(plan: Plan) -> Plan:
    """The smoke version: tiny networks, four steps, the arms that show each mechanism once."""
    kept = tuple(arm for arm in plan.arms if not plan.smoke_arms or arm.name in plan.smoke_arms)
    tests = tuple(test for test in plan.tests if {test.arm, test.other} <= {arm.name for arm in kept})
    last = ConfigDict(copy.deepcopy(SMOKE))
    overlay(last, plan.smoke)
    arms = tuple(_short(arm, plan.smoke_shared.get(arm.name, "")) for arm in kept)
    end = plan.smoke_end or tuple(name for name in plan.end if name != "class_accuracy")
    short = plan._replace(end=end, arms=arms, tests=tests, last=last.to_dict(), every=2, seconds=0.0)
    return short._replace(samples=min(plan.samples, SMOKE_SAMPLES))


def _short(arm: Arm, network: str) -> Arm:
    if network:
        return arm._replace(network=network, changes={}, source="", matches=None)
    stages = arm.changes.get("stages", ())
    return arm._replace(changes={**arm.changes, "stages": tuple({**stage, "steps": 2} for stage in stages)})


SMOKE_SAMPLES = 64  # enough for one cell of three to have the 20 that the test of copies takes
SMOKE: dict[str, Any] = {
    "steps": 4,
    "batch": 16,
    "resident": False,  # so that programs do not depend on the number of images
    "model": {"width": 16, "depth": 1, "heads": 2},
    "schedule": {"name": "cosine", "learning_rate": 2e-3, "warmup": 1},
    "sample": {"steps": 2},
    "evaluate": {"images": 16, "batch": 64, "levels": 2},
    "log": {"every": 1, "heldout_every": 0},
}
