"""The contract of every visibility, enrolled by its line in the table; and the rule of each member."""

from collections import Counter
from math import comb, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.masks import VISIBILITIES, patch
from maskdiff_jax.masks.draws import kept_count
from tests.masks.contract import assert_mean, assert_reproducible

OPTIONS = {"patch": [{"ratio": 0.0}, {"ratio": 0.4}, {"ratio": 0.9}]}  # a member without a line: its defaults
MEMBERS = [pytest.param(VISIBILITIES[n](**o), id=f"{n}-{o}") for n in VISIBILITIES for o in OPTIONS.get(n, [{}])]
GRIDS = [(4, 4), (2, 6)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("member", MEMBERS)
def test_ids_are_distinct_sorted_in_range_and_included_as_stated(member, grid):
    n = prod(grid)
    keys = jax.random.split(jax.random.key(0), 8192)
    ids = np.asarray(jax.jit(lambda keys: member.sample(keys, grid))(keys))
    assert ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < n
    assert np.all(np.diff(ids, axis=1) > 0)
    visible = np.zeros((len(ids), n))
    np.put_along_axis(visible, ids, 1, axis=1)
    inclusion = np.asarray(member.inclusion(grid))
    assert inclusion.shape == (n,)
    assert_mean(visible, inclusion)


@pytest.mark.parametrize("member", MEMBERS)
def test_draws_are_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch(member):
    assert_reproducible(lambda keys: member.sample(keys, (4, 4)))


@pytest.mark.parametrize("member", MEMBERS)
def test_the_count_is_static_and_sums_the_inclusion(member):
    keys = jax.random.split(jax.random.key(0), 8)
    ids = jax.eval_shape(lambda keys: member.sample(keys, (4, 4)), keys)
    assert ids.shape == (8, round(float(member.inclusion((4, 4)).sum())))


def test_all_is_every_token_in_order():
    ids = VISIBILITIES["all"]().sample(jax.random.split(jax.random.key(0), 3), (2, 5))
    np.testing.assert_array_equal(ids, np.tile(np.arange(10), (3, 1)))


def test_patch_draws_every_subset_equally_often():
    keys = jax.random.split(jax.random.key(1), 20_000)
    counts = Counter(map(tuple, np.asarray(jax.jit(lambda keys: patch(0.6).sample(keys, (1, 5)))(keys)).tolist()))
    share = 1 / comb(5, 2)
    assert len(counts) == comb(5, 2)
    error = np.sqrt(share * (1 - share) / len(keys))
    assert max(abs(c / len(keys) - share) for c in counts.values()) < 5 * error


@pytest.mark.parametrize(
    ("ratio", "n", "kept"),
    [
        *[(0.1, 256, 231), (0.5, 256, 128), (0.9, 256, 26)],  # the counts of the MaskDM code
        *[(0.98, 64, 2), (0.98, 3072, 62)],
        *[(0.29, 100, 71), (0.7, 10, 3), (0.58, 50, 21), (1 / 3, 9, 6), (2 / 3, 9, 3)],  # products that binary misses
        *[(0.0, 1, 1), (0.999, 4096, 5), (0.999, 1_000_000, 1000)],
    ],
)
def test_exactly_the_whole_part_of_ratio_times_n_is_masked(ratio, n, kept):
    assert kept_count(ratio, n) == kept


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_outside_the_range_is_refused(ratio):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        patch(ratio)


def test_a_draw_that_leaves_no_token_is_refused():
    with pytest.raises(ValueError, match="none of 4 units"):
        patch(1 - 1e-9).sample(jnp.stack([jax.random.key(0)]), (2, 2))
