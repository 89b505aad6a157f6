import math

import numpy as np
import pytest

from maskdiff_jax.evaluate import curves
from maskdiff_jax.evaluate.curves import AXES, Curve
from maskdiff_jax.evaluate.curves_text import tables, verdict

STEPS = np.arange(10.0, 1001, 10)


def curve(value, steps=STEPS, flops=1.0, seconds=1.0, before=0.0):
    """``value(steps)`` at so many FLOPs and seconds a step; ``before`` of every cost comes first."""
    cost = {"steps": steps, "flops": flops * steps, "seconds": seconds * steps}
    return Curve({axis: c + before for axis, c in cost.items()}, value(steps))


def rows(values, flops=2.0, seconds=0.5):
    return [{"step": s, "loss": v, "flops": flops * s, "seconds": seconds * s} for s, v in values.items()]


def factors(arms, arm, other, higher=False):
    return [curves.pair(arms, arm, other, higher).axes[axis].factor for axis in AXES]


def reciprocals(**options):
    """Loss 100/s and 200/s: ``fast`` is at the other's best, 0.2 at step 1,000, after 500 steps."""
    return {
        "fast": [curve(lambda s: 100 / s, flops=3, seconds=0.5, **options)],
        "slow": [curve(lambda s: 200 / s, flops=1, seconds=0.25, **options)],
    }


def test_factors_of_reciprocal_curves():
    pair = curves.pair(reciprocals(), "fast", "slow")
    assert pair.level == 0.2 and (pair.reached, pair.seeds) == (1, 1)
    np.testing.assert_allclose([pair.axes[axis].factor for axis in AXES], [2, 2 / 3, 1])
    np.testing.assert_allclose([pair.axes[axis].cost for axis in AXES], [500, 1500, 250])
    np.testing.assert_allclose([pair.axes[axis].reference for axis in AXES], [1000, 1000, 250])


def test_what_is_never_reached():
    pair = curves.pair(reciprocals(), "slow", "fast")
    assert pair.reached == 0
    assert all(pair.axes[axis][1:] == ([None], None, [None], None) for axis in AXES)


def test_inherited_cost_counts_on_both_sides():
    np.testing.assert_allclose(
        factors(reciprocals(before=500.0), "fast", "slow"), [1500 / 1000, 1500 / 2000, 750 / 750]
    )


def test_factors_do_not_depend_on_units():
    """Of a cost, or of the metric, whose better direction may even turn."""
    arms = reciprocals()
    scaled = {
        label: [Curve({axis: 7 * cost for axis, cost in c.cost.items()}, 5 - 3 * c.value) for c in found]
        for label, found in arms.items()
    }
    for arm, other in (("fast", "slow"), ("slow", "fast")):
        there, back = factors(arms, arm, other), factors(scaled, arm, other, higher=True)
        assert there == [None] * 3 == back if arm == "slow" else np.allclose(there, back)


def test_equal_bests_have_reciprocal_factors():
    arms = {"a": [curve(lambda s: 1 / s, flops=2)], "b": [curve(lambda s: 1000 / s**2, flops=9, seconds=3)]}
    there, back = factors(arms, "a", "b"), factors(arms, "b", "a")
    np.testing.assert_allclose(np.multiply(there, back), 1, rtol=1e-12)


def test_between_measurements_a_value_is_reached_in_proportion():
    """On every axis at the same moment, whatever the axis costs there."""
    cost = {"steps": np.array([0.0, 10, 20]), "flops": np.array([0.0, 100, 500]), "seconds": np.array([0.0, 1, 3])}
    line = Curve(cost, np.array([1.0, 0.5, 0.1]))
    assert curves.reach(line, 0.2) == pytest.approx({"steps": 17.5, "flops": 400, "seconds": 2.5})
    assert curves.reach(line, 0.5) == pytest.approx({"steps": 10, "flops": 100, "seconds": 1})
    assert curves.reach(line, 2.0) == {"steps": 0, "flops": 0, "seconds": 0}
    assert curves.reach(line, 0.0999) is None


def test_first_reach_counts_even_if_the_curve_turns_back():
    line = curve(lambda s: np.array([3.0, 1.0, 2.0, 0.5]), steps=np.array([1.0, 2, 3, 4]))
    assert curves.reach(line, 1.5)["steps"] == pytest.approx(1.75)
    assert curves.reach(line, 0.75)["steps"] == pytest.approx(3 + 1.25 / 1.5)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_seeds(n):
    """A factor is a geometric mean; the level is the mean of the other seeds' bests, at the geometric mean of costs."""
    rng = np.random.default_rng(n)
    bests = rng.uniform(0.1, 0.2, n)
    ends = rng.uniform(100, 400, n)
    other = [curve(lambda s, b=b: np.array([9, b]), steps=np.array([1.0, e])) for b, e in zip(bests, ends, strict=True)]
    hits = 2.0 ** np.arange(n)
    arm = [curve(lambda s: np.array([9.0, 0.0, 0.0]), steps=np.array([h / 2, h / 2 + 1e-9, 99])) for h in 2 * hits]
    pair = curves.pair({"arm": arm, "other": other}, "arm", "other")
    reference = np.exp(np.log(ends).mean())
    assert pair.level == pytest.approx(bests.mean())
    np.testing.assert_allclose(pair.axes["steps"].factors, reference / hits, rtol=1e-6)
    np.testing.assert_allclose(pair.axes["steps"].factor, reference / 2 ** ((n - 1) / 2), rtol=1e-6)
    assert pair.reached == pair.seeds == n


def test_seeds_that_never_arrive_are_counted_apart():
    arm = [curve(lambda s, k=k: k / s) for k in (100, 50, 1000)]
    pair = curves.pair({"arm": arm, "other": [curve(lambda s: 200 / s)]}, "arm", "other")
    assert (pair.reached, pair.seeds) == (2, 3)
    assert pair.axes["flops"].factors == [pytest.approx(2), pytest.approx(4), None]
    assert pair.axes["flops"].factor == pytest.approx(8**0.5)
    assert "in 2 of its 3 seeds" in verdict(curves.compare({"arm": arm, "other": [curve(lambda s: 200 / s)]}))[0]


def test_seeds_that_agree_to_the_bit_reach_their_own_mean():
    """The mean of equal numbers may lie below each of them."""
    for value in np.random.default_rng(0).uniform(size=50):
        arms = {name: [curve(lambda s, v=value: v + 1 / s - 1 / s[-1])] * 3 for name in "ab"}
        assert factors(arms, "a", "b") == pytest.approx([1, 1, 1], rel=1e-6)


@pytest.mark.parametrize(("values", "half"), [([1, 3], 12.7062047), ([1, 2, 3], 2.4841377), ([5] * 4, 0.0)])
def test_interval_is_that_of_student(values, half):
    """t(0.975) of 1 and 2 degrees of freedom is 12.706 and 4.303."""
    found = curves.summary(values)
    assert (found.mean, found.half_width) == (pytest.approx(np.mean(values)), pytest.approx(half, rel=1e-6))
    assert curves.summary(values[:1]).half_width is None


def test_equal_budget():
    """Straight lines: the metric at the shortest run's end is exact, and there is none before a curve begins."""
    arms = {
        "short": [curve(lambda s: 1 - s / 1000, steps=np.linspace(0, 90, 7), flops=2)],
        "long": [curve(lambda s: 2 - s / 1000, steps=np.linspace(0, 900, 4), seconds=2, flops=5)],
        "late": [curve(lambda s: s, before=100.0)],
    }
    equal = {axis: curves.at_equal(arms, axis) for axis in AXES}
    assert [equal[axis].budget for axis in AXES] == pytest.approx([90, 180, 90])
    assert [equal[axis].arms["short"].mean for axis in AXES] == pytest.approx([0.91, 0.91, 0.91])
    assert [equal[axis].arms["long"].mean for axis in AXES] == pytest.approx([1.91, 1.964, 1.955])
    assert math.isnan(equal["steps"].arms["late"].mean) and equal["flops"].arms["late"].mean == pytest.approx(80)
    assert "no value yet" in tables(curves.compare(arms), dict.fromkeys(arms, "–"))


def test_mean_curve_is_over_what_all_seeds_have():
    seeds = [
        curve(lambda s: s, steps=np.array([0.0, 10, 20])),
        curve(lambda s: 3 * s, steps=np.array([5.0, 12, 15])),
    ]
    cost, value = curves.mean_curve(seeds, "steps")
    np.testing.assert_array_equal(cost, [5, 10, 12, 15])
    np.testing.assert_allclose(value, 2 * cost)


def test_costs_come_from_the_lines_that_have_them():
    """Through 0 at step 0; the edge of a stage has a line, and between lines costs grow in proportion."""
    found = curves.curve_of(
        [{"step": s, "loss": 1.0 - s / 100} for s in (0, 25, 75, 90)]
        + [{"step": 50, "flops": 50.0, "seconds": 100}, {"step": 80, "flops": 170.0, "seconds": 130}]
        + [{"step": 0, "note": "no metric", "flops": 0.0}],
        "loss",
    )
    np.testing.assert_allclose(found.cost["steps"], [0, 25, 75])  # no cost is known at 90
    np.testing.assert_allclose(found.cost["flops"], [0, 25, 150])
    np.testing.assert_allclose(found.cost["seconds"], [0, 50, 125])
    np.testing.assert_allclose(found.value, [1, 0.75, 0.25])


def test_a_run_that_diverges_keeps_its_best():
    found = curves.curve_of(rows({1: 3.0, 2: 2.0, 3: "nan", 4: 1.5, 5: "inf", 6: "-inf"}), "loss")
    assert curves.best(found) == (1.5, {"steps": 4, "flops": 8, "seconds": 2})
    assert curves.reach(found, 1.75)["steps"] == 4  # nothing is known of the way there
    assert curves.reach(found, 1.0) is None
    assert np.isnan(curves.value_at(found, "steps", np.array([2.5, 3, 3.5, 6]))).all()


def test_no_cost_at_all():
    """A run that is good at step 0, as one whose pre-training is left out, needs an infinity less."""
    at_once, later = curve(lambda s: 0 * s, steps=STEPS - 10), curve(lambda s: 2 - s / 1000)
    assert factors({"a": [at_once], "b": [later]}, "a", "b") == [math.inf] * 3
    assert factors({"a": [at_once], "b": [at_once]}, "a", "b") == [1] * 3
    worse = curve(lambda s: s, steps=STEPS - 10)
    assert factors({"a": [curve(lambda s: 0 * s)], "b": [worse]}, "a", "b") == [0] * 3
    assert "no steps (0 against 1,000)" in verdict(curves.compare({"a": [at_once], "b": [later]}))[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*rows({1: 1.0}), {"step": 2, "other/loss": 1, "note": "x"}], "no metric 'best'; there are loss, other/loss$"),
        ([{"step": 1, "note": "x", "flops": 1.0}], "no metric 'best'; there are none$"),
        ([{"step": 0, "best": 1.0, "flops": 0.0}], "no line after step 0 has 'flops'"),
        ([row | {"best": "nan"} for row in rows({1: 1.0, 2: 1.0})], "no finite value of 'best'"),
        ([{"step": s, "best": 1.0, "flops": 1, "seconds": -s} for s in (1, 2)], "'seconds' falls after step 0"),
        (
            [{"step": s, "best": 1.0, "flops": f, "seconds": s} for s, f in ((5, 3), (9, 2))],
            "'flops' falls after step 5",
        ),
    ],
)
def test_bad_lines(lines, message):
    with pytest.raises(ValueError, match=message):
        curves.curve_of(lines, "best")
    with pytest.raises(ValueError, match="no metric 'flops'"):
        curves.curve_of(lines, "flops")
