"""The result of a campaign as one JSON object: what was run, the figures of every arm, the tests and the verdict."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.claims import verdicts
from benchmarks.claims.plan import Claim, Figures, Plan
from benchmarks.claims.runner import Campaign
from benchmarks.claims.verdicts import Row
from maskdiff_jax.evaluate.curves import AXES, Curve
from maskdiff_jax.train.files import read_json
from maskdiff_jax.train.provenance import provenance


def collect(campaign: Campaign) -> dict[str, list[Figures]]:
    """What was measured of every compared arm, by seed; measured now where it is not yet."""
    arms = [arm for arm in campaign.plan.arms if arm.compared]
    return {arm.name: [campaign.figures(arm, seed) for seed in range(campaign.seeds)] for arm in arms}


def rows(plan: Plan, found: Mapping[str, list[Figures]]) -> dict[str, Row]:
    """The figures and curves of every arm over its seeds, and what ``plan.relate`` makes of several arms."""
    table = {name: row(measured) for name, measured in found.items()}
    if plan.relate is not None:
        plan.relate(table)
    return table


def row(measured: list[Figures]) -> Row:
    """The figures of one arm over its seeds: those that are numbers, NaN where one is missing."""
    names = dict.fromkeys(k for one in measured for k, v in one["end"].items() if not isinstance(v, list))
    figures = {name: [_number(one["end"].get(name)) for one in measured] for name in names}
    curves = {name: [_curve(one["curves"][name]) for one in measured] for name in measured[0]["curves"] if measured}
    return Row(figures, curves)


def result(claim: Claim, campaign: Campaign, budget: str, command: str, note: str = "") -> dict[str, Any]:
    """The whole result of a claim, measured and judged; ``command`` is what it was made by, ``note`` how."""
    plan, found = campaign.plan, collect(campaign)
    table = rows(plan, found)
    outcomes = [verdicts.outcome(test, table) for test in plan.tests]
    noise = campaign.out / "noise.json"
    about: dict[str, Any] = {
        "claim": claim.name,
        "question": claim.question,
        "source": claim.source,
        "rule": claim.rule,
        "verdict": verdicts.verdict(outcomes),
        "tests": [_outcome(o) for o in outcomes],
        "budget": budget,
        "smoke": campaign.tools.smoke,
        "seeds": campaign.seeds,
        "samples": plan.samples,
        "note": " ".join(filter(None, (plan.note, note))),
        "command": command,
        "columns": list(plan.columns),
    }
    arms = {
        arm.name: {
            "x": arm.x,
            "line": arm.line or arm.name,
            "steps": found[arm.name][0]["steps"],
            "parameters": found[arm.name][0]["parameters"],
            "batch": found[arm.name][0]["batch"],
            "supervised": found[arm.name][0]["supervised"],
            "flops": [one["flops"] for one in found[arm.name]],
            "seconds": [one["seconds"] for one in found[arm.name]],
            "figures": table[arm.name].figures,
            "curves": {
                name: [{**c.cost, "value": c.value} for c in curves] for name, curves in table[arm.name].curves.items()
            },
            "maps": {k: _mean(found[arm.name], k) for k, v in found[arm.name][0]["end"].items() if isinstance(v, list)},
        }
        for arm in plan.arms
        if arm.compared
    }
    kept = {"arms": arms, "noise": read_json(noise) if noise.exists() else {}}
    return about | kept | {"provenance": provenance(about)}


def _outcome(found: verdicts.Outcome) -> dict[str, Any]:
    return {"statement": verdicts.statement(found.test), **found._asdict(), "test": found.test._asdict()}


def _curve(found: Mapping[str, Any]) -> Curve:
    return Curve({axis: np.array(found[axis], float) for axis in AXES}, np.array(found["value"], float))


def _mean(found: list[Figures], name: str) -> list[Any]:
    return np.mean([np.array(one["end"][name], float) for one in found], axis=0).tolist()


def _number(value: Any) -> float:
    """A number, NaN for what was not measured; JSON has the string "nan" for one that is not finite."""
    return float("nan") if value is None else float(value)
