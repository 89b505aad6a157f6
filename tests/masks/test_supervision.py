"""The contract of every supervision and every one of its options, enrolled by the table; and the sparse recipe itself.

One sample of masks for each member serves all its statistics; tolerances are five standard errors at fixed seeds.
"""

from functools import cache
from itertools import product
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.masks import SUPERVISIONS, dense, mask_variance, sparse
from maskdiff_jax.masks.draws import kept_count
from tests.masks.contract import assert_mean, assert_variance, on_all_devices

TOKENS, IMAGE = (6, 2, 2, 3), (4, 6, 3)  # one image's answered units: six tokens of 2×2×3, and an image of 4×6×3
MASKS = 8192
KEYS = jax.random.split(jax.random.key(7), MASKS)
EIGHT = slice(4, 12)


class Case(NamedTuple):
    """One member: its name, its options and the shape that it is drawn on."""

    name: str
    options: tuple = ()
    shape: tuple = TOKENS

    @property
    def member(self):
        return SUPERVISIONS[self.name](**dict(self.options))

    @property
    def biased(self) -> bool:
        """Listed as biased: 'none' scales the loss by the fraction kept."""
        return dict(self.options).get("normalise") == "none"

    def units(self) -> np.ndarray:
        """The number of the unit that each element [*shape] belongs to."""
        options, shape = dict(self.options), self.shape
        if self.name == "dense":
            return np.zeros(shape, int)
        if options.get("unit", "element") == "element":
            return np.arange(prod(shape)).reshape(shape)
        if options["unit"] == "pixel":
            return np.broadcast_to(np.arange(prod(shape[:-1])).reshape(*shape[:-1], 1), shape)
        if len(shape) == 4:
            return np.broadcast_to(np.arange(shape[0]).reshape(-1, 1, 1, 1), shape)
        h, w, _ = np.indices(shape)
        p = options["patch"]
        return h // p * (shape[1] // p) + w // p


def sparse_case(shape=TOKENS, **options) -> Case:
    return Case("sparse", tuple(options.items()), shape)


CASES = {
    "sparse": [
        *[
            sparse_case(ratio=0.6, unit=unit, exact=exact, normalise=normalise)
            for unit, exact, normalise in product(
                ("element", "pixel", "patch"), (False, True), ("count", "expected", "none")
            )
        ],
        sparse_case(ratio=0.9, unit="patch"),  # more than half of the draws of six tokens are empty
        sparse_case(IMAGE, ratio=0.6),
        sparse_case(IMAGE, ratio=0.9, unit="pixel", exact=True),
        sparse_case(IMAGE, ratio=0.6, unit="patch", patch=2),
        sparse_case(IMAGE, ratio=0.6, unit="patch", patch=2, exact=True, normalise="expected"),
    ]
}
MEMBERS = [c for name in SUPERVISIONS for c in CASES.get(name, [Case(name)])]
each_member = pytest.mark.parametrize(
    "case", MEMBERS, ids=lambda c: "-".join([c.name, *(f"{k}={v}" for k, v in c.options), str(len(c.shape))])
)


@cache
def programs(shape):
    """One program, keys[b] -> (mask, factor) of every member on this shape: its random bits are compiled once."""
    members = [case.member for case in MEMBERS if case.shape == shape]
    return jax.jit(lambda keys: [(m := s.sample(keys, shape), s.normalise(m, shape)) for s in members])


@cache
def draws_of_all(shape, devices: int = 1) -> dict[Case, tuple[np.ndarray, np.ndarray]]:
    """For every member on this shape many masks and factors; on eight devices, those of eight images in the middle."""
    drawn = programs(shape)(KEYS if devices == 1 else on_all_devices(KEYS[EIGHT]))
    return dict(zip([case for case in MEMBERS if case.shape == shape], drawn, strict=True))


def draws(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Many masks [m, elements] and their factors [m]."""
    mask, factors = draws_of_all(case.shape)[case]
    assert mask.dtype == bool
    return np.broadcast_to(mask, (MASKS, *case.shape)).reshape(MASKS, -1), np.asarray(factors)


def values(shape) -> np.ndarray:
    """A gradient for each element, of mean far from 0, so that the recipes' variances differ."""
    return 1 + np.random.default_rng(0).normal(size=prod(shape))


@each_member
def test_elements_of_a_unit_share_their_draw_and_others_do_not(case):
    masks, _ = draws(case)
    units = case.units().reshape(-1)
    same = masks.T.astype(np.float32) @ masks + (~masks).T.astype(np.float32) @ ~masks == MASKS
    np.testing.assert_array_equal(same, units[:, None] == units[None, :])


@each_member
def test_measured_inclusion_is_the_stated_one(case):
    masks, _ = draws(case)
    inclusion = case.member.inclusion(case.shape)
    assert 0 < inclusion <= 1
    assert_mean(masks, np.full(masks.shape[1], inclusion))


@each_member
def test_the_normalised_masked_sum_is_unbiased_or_listed(case):
    masks, factors = draws(case)
    g = values(case.shape)
    share = case.member.inclusion(case.shape) if case.biased else 1.0
    assert share < 1 or not case.biased
    assert_mean(factors * (masks @ g), share * g.mean())


@each_member
def test_the_variance_follows_the_formula(case):
    masks, factors = draws(case)
    g, units = values(case.shape), case.units().reshape(-1)
    by_unit = np.bincount(units, g) / np.bincount(units)
    options = {k: v for k, v in case.options if k in ("ratio", "exact", "normalise")} or {"ratio": 0.0}
    assert_variance(factors * (masks @ g), float(mask_variance(jnp.asarray(by_unit), **options)))


@each_member
def test_draws_are_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch(case):
    drawn = draws_of_all(case.shape)[case][0][EIGHT]
    np.testing.assert_array_equal(case.member.sample(KEYS[EIGHT], case.shape), drawn)
    np.testing.assert_array_equal(draws_of_all(case.shape, devices=8)[case][0], drawn)


# Sparsely Supervised Diffusion: the loss-only mask leaves the expected gradient as it is; only its noise grows.

SIDE = (4, 4, 4)  # 64 elements
RATIOS = (0.0, 0.5, 0.9, 0.98)


def errors(params):
    """Squared errors [*SIDE] of a small nonlinear network on a fixed image and target."""
    x, target = jax.random.normal(jax.random.key(11), (2, *SIDE))
    out = jnp.tanh(params[0] * x + params[1] * jnp.roll(x, 1, axis=0) + params[2]) + params[3] * x
    return (out - target) ** 2


PARAMS = jnp.array([0.7, -0.4, 0.3, 0.5])
RECIPES = [*product(RATIOS, (False, True), ("count", "expected"))]  # ratio, exact, normalise


@pytest.fixture(scope="module")
def masks():
    """For each recipe 20,000 masks [m, *SIDE] and factors [m], from one program."""
    members = [sparse(ratio, exact=exact, normalise=normalise) for ratio, exact, normalise in RECIPES]
    program = jax.jit(lambda keys: [(m := s.sample(keys, SIDE), s.normalise(m, SIDE)) for s in members])
    return dict(zip(RECIPES, program(jax.random.split(jax.random.key(5), 20_000)), strict=True))


@pytest.fixture(scope="module")
def masked_gradients():
    """The gradient [m, params] of the masked loss, for each mask and factor."""
    return jax.jit(jax.vmap(jax.grad(lambda p, mask, factor: factor * jnp.sum(mask * errors(p))), (None, 0, 0)))


@pytest.fixture(scope="module")
def element_gradients():
    return jax.jit(jax.jacobian(errors))(PARAMS).reshape(64, -1)


@pytest.mark.parametrize(("ratio", "exact", "normalise"), RECIPES)
def test_mean_masked_gradient_is_the_dense_one_and_its_variance_is_the_formula(
    masks, masked_gradients, element_gradients, ratio, exact, normalise
):
    mask, factors = masks[ratio, exact, normalise]
    gradients = masked_gradients(PARAMS, jnp.broadcast_to(mask, (len(mask), *SIDE)), factors)
    assert_mean(gradients, element_gradients.mean(0))
    variance = mask_variance(element_gradients, ratio, exact, normalise)
    assert_variance(gradients, variance)
    assert np.all(variance == 0) == (ratio == 0)


def test_an_empty_draw_keeps_one_uniform_unit_under_count_and_none_under_expected(masks):
    count, expected = (np.asarray(masks[0.98, False, n][0]).reshape(-1, 64) for n in ("count", "expected"))
    empty = ~expected.any(axis=1)
    assert_mean(empty, 0.98**64)  # 27 %
    np.testing.assert_array_equal(count[~empty], expected[~empty])
    np.testing.assert_array_equal(count[empty].sum(axis=1), 1)
    assert_mean(count[empty], np.full(64, 1 / 64))


@pytest.mark.parametrize("ratio", [0.29, 0.5, 0.98])
def test_exact_counts_are_exact(ratio):
    masks = sparse(ratio, exact=True).sample(jax.random.split(jax.random.key(0), 4), (32, 32, 3))
    np.testing.assert_array_equal(masks.sum((1, 2, 3)), kept_count(ratio, 3072))


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"normalise": "none"}, {"unit": "pixel"}], ids=str)
def test_ratio_zero_is_dense(options):
    keys = jax.random.split(jax.random.key(0), 3)
    member = sparse(0.0, **options)
    mask = member.sample(keys, IMAGE)
    np.testing.assert_array_equal(mask, dense().sample(keys, IMAGE))
    np.testing.assert_array_equal(member.normalise(mask, IMAGE), np.full(3, np.float32(1 / prod(IMAGE))))
    assert member.inclusion(IMAGE) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"ratio": -0.5}, "ratio=-0.5"),
        ({"ratio": 0.5, "unit": "block"}, "unit='block': choose from element, pixel, patch"),
        ({"ratio": 0.5, "normalise": "sum"}, "normalise='sum': choose from count, expected, none"),
        ({"ratio": 0.5, "patch": 4}, "only with unit='patch'"),
        ({"ratio": 0.5, "unit": "patch", "patch": 0}, "at least 1"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        sparse(**options)


@pytest.mark.parametrize(
    ("patch", "shape", "message"),
    [
        (None, IMAGE, "needs patch="),
        (3, IMAGE, "patch=3 does not divide an image of 4×6"),
        (4, TOKENS, "its token, of side 2"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(patch, shape, message):
    member = sparse(0.5, unit="patch", patch=patch)
    with pytest.raises(ValueError, match=message):
        member.sample(jax.random.split(jax.random.key(0), 2), shape)
    with pytest.raises(ValueError, match=message):
        member.inclusion(shape)
