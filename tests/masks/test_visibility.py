"""The contract of every visibility, enrolled by its line in the table; and the rule of each member."""

import functools
from collections import Counter
from itertools import combinations
from math import comb, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.masks import VISIBILITIES, block, crop, patch
from maskdiff_jax.masks.draws import kept_count
from tests.masks.contract import assert_mean, on_all_devices

OPTIONS = {  # a member without a line: its defaults
    "patch": [{"ratio": 0.0}, {"ratio": 0.4}, {"ratio": 0.9}],
    "block": [{"ratio": 0.3, "block": 2}, {"ratio": 0.9, "block": 2}],
    "crop": [{"side": 2}],
}
NAMED = [(n, VISIBILITIES[n](**o), f"{n}-{o}") for n in VISIBILITIES for o in OPTIONS.get(n, [{}])]
MEMBERS = [pytest.param(member, id=label) for _, member, label in NAMED]
UNEVEN = {"crop"}  # some tokens are visible more often: the plain mean over the visible ones is biased, on purpose
GRIDS = [(4, 4), (2, 6)]
KEYS = jax.random.split(jax.random.key(0), 8192)
EIGHT = slice(4, 12)


@functools.cache
def program(grid):
    """keys[b] -> the ids of every member: one program, in which random bits are compiled once."""
    return jax.jit(lambda keys: [member.sample(keys, grid) for _, member, _ in NAMED])


@functools.cache
def drawn_of_all(grid, devices: int = 1) -> dict:
    """member -> ids [b, k]; on eight devices, those of eight images in the middle."""
    ids = program(grid)(KEYS if devices == 1 else on_all_devices(KEYS[EIGHT]))
    return {member: np.asarray(found) for (_, member, _), found in zip(NAMED, ids, strict=True)}


def drawn(member, grid) -> np.ndarray:
    """ids [b, k]"""
    return drawn_of_all(grid)[member]


def drawn_often(member, grid) -> list[tuple[int, ...]]:
    """The ids of 20,000 images."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    return list(map(tuple, np.asarray(jax.jit(lambda keys: member.sample(keys, grid))(keys)).tolist()))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("member", MEMBERS)
def test_ids_are_distinct_sorted_in_range_and_included_as_stated(member, grid):
    n, ids = prod(grid), drawn(member, grid)
    assert ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < n
    assert np.all(np.diff(ids, axis=1) > 0)
    visible = np.zeros((len(ids), n))
    np.put_along_axis(visible, ids, 1, axis=1)
    inclusion = np.asarray(member.inclusion(grid))
    assert inclusion.shape == (n,)
    assert_mean(visible, inclusion)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("member", MEMBERS)
def test_weighting_by_inclusion_turns_the_mean_over_masks_into_that_over_tokens(member, grid):
    n, ids = prod(grid), drawn(member, grid)
    losses = np.random.default_rng(2).normal(1, 1, n)
    assert_mean(np.sum(losses[ids] / (n * np.asarray(member.inclusion(grid))[ids]), axis=1), losses.mean())


@pytest.mark.parametrize(("name", "member"), [pytest.param(n, member, id=label) for n, member, label in NAMED])
def test_the_plain_mean_is_that_over_tokens_unless_listed_uneven(name, member):
    """Losses that are larger in the centre of the grid."""
    grid = (4, 4)
    losses = np.outer([0, 1, 1, 0], [0, 1, 1, 0]).ravel() + np.arange(16) / 16
    plain = losses[drawn(member, grid)].mean(axis=1)
    bias = abs(plain.mean() - losses.mean()) / (plain.std() / len(KEYS) ** 0.5 + 1e-12)
    assert bias > 20 if name in UNEVEN else bias < 5
    assert (np.ptp(member.inclusion(grid)) > 0.1) == (name in UNEVEN)


@pytest.mark.parametrize("member", MEMBERS)
def test_draws_are_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch(member):
    np.testing.assert_array_equal(member.sample(KEYS[EIGHT], (4, 4)), drawn(member, (4, 4))[EIGHT])
    np.testing.assert_array_equal(drawn_of_all((4, 4), devices=8)[member], drawn(member, (4, 4))[EIGHT])


@pytest.mark.parametrize("member", MEMBERS)
def test_the_count_is_static_and_sums_the_inclusion(member):
    ids = jax.eval_shape(lambda keys: member.sample(keys, (4, 4)), KEYS[EIGHT])
    assert ids.shape == (8, round(float(np.sum(member.inclusion((4, 4))))))


def test_all_is_every_token_in_order():
    ids = VISIBILITIES["all"]().sample(jax.random.split(jax.random.key(0), 3), (2, 5))
    np.testing.assert_array_equal(ids, np.tile(np.arange(10), (3, 1)))


def assert_uniform(draws, outcomes):
    """Every outcome is drawn, none else, and each equally often within five standard errors."""
    counts, share = Counter(draws), 1 / len(outcomes)
    assert set(counts) == set(outcomes)
    error = np.sqrt(share * (1 - share) / len(draws))
    assert max(abs(c / len(draws) - share) for c in counts.values()) < 5 * error


def test_patch_draws_every_subset_equally_often():
    subsets = list(combinations(range(5), 2))
    assert len(subsets) == comb(5, 2)
    assert_uniform(drawn_often(patch(0.6), (1, 5)), subsets)


def test_block_draws_every_subset_of_aligned_blocks_equally_often():
    """Three of the six 2×2 blocks of a 4×6 grid, each visible as a whole."""
    numbers = np.arange(24).reshape(4, 6)
    squares = [numbers[r : r + 2, c : c + 2].ravel() for r in (0, 2) for c in (0, 2, 4)]
    subsets = [tuple(sorted(np.concatenate(chosen).tolist())) for chosen in combinations(squares, 3)]
    assert len(subsets) == comb(6, 3)
    assert_uniform(drawn_often(block(0.5, 2), (4, 6)), subsets)


def test_crop_draws_every_window_equally_often():
    numbers = np.arange(24).reshape(4, 6)
    windows = [tuple(numbers[r : r + 3, c : c + 3].ravel().tolist()) for r in range(2) for c in range(4)]
    assert_uniform(drawn_often(crop(3), (4, 6)), windows)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_a_block_of_one_token_is_patch(grid):
    """Equally likely subsets of one size: the same law. Here even the same draws."""
    pairs = [(block(ratio, 1), patch(ratio)) for ratio in (0.29, 0.9)]
    draw = jax.jit(lambda keys: [[member.sample(keys, grid) for member in pair] for pair in pairs])
    for (one, plain), ids in zip(pairs, draw(jax.random.split(jax.random.key(5), 64)), strict=True):
        np.testing.assert_array_equal(one.inclusion(grid), plain.inclusion(grid))
        np.testing.assert_array_equal(*ids)


def test_the_window_of_a_crop_covers_the_centre_most_often():
    inclusion = np.asarray(crop(5).inclusion((16, 16)), np.float64).reshape(16, 16)
    assert inclusion[0, 0] == pytest.approx(1 / 144) and round(100 * inclusion[0, 0], 1) == 0.7
    assert inclusion[7, 7] == inclusion.max() == pytest.approx(25 / 144) and round(100 * inclusion.max()) == 17
    assert inclusion.sum() == pytest.approx(25)
    np.testing.assert_array_equal(inclusion, inclusion[::-1].T)  # a square grid: its symmetries


def test_the_largest_crop_of_a_square_is_all_of_it():
    np.testing.assert_array_equal(crop(4).inclusion((4, 4)), 1)
    np.testing.assert_array_equal(crop(4).sample(jnp.stack([jax.random.key(0)]), (4, 4)), [np.arange(16)])


@pytest.mark.parametrize(
    ("member", "side", "visible"),
    [
        *[(patch(0.1), 16, 231), (patch(0.5), 16, 128), (patch(0.9), 16, 26)],  # 64 px in patches of 4
        *[(block(0.1, 2), 16, 232), (block(0.5, 2), 16, 128), (block(0.9, 2), 16, 28)],
        *[(block(0.1, 4), 16, 240), (block(0.5, 4), 16, 128), (block(0.9, 4), 16, 32)],
        *[(block(0.5, 8), 16, 128), (crop(15), 16, 225), (crop(11), 16, 121), (crop(5), 16, 25)],
        *[(block(0.5, 4), 64, 2048), (block(0.9, 4), 64, 416)],  # 256 px
    ],
)
def test_as_many_tokens_are_visible_as_in_the_code_of_maskdm(member, side, visible):
    keys = jax.random.split(jax.random.key(0), 2)
    assert jax.eval_shape(lambda keys: member.sample(keys, (side, side)), keys).shape == (2, visible)
    assert np.sum(member.inclusion((side, side))) == pytest.approx(visible)


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
@pytest.mark.parametrize("member", [patch, lambda ratio: block(ratio, 2)])
def test_a_ratio_outside_the_range_is_refused(member, ratio):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        member(ratio)


@pytest.mark.parametrize("side", [0, -1])
def test_a_side_below_one_token_is_refused(side):
    with pytest.raises(ValueError, match=f"^block={side}: a side of at least 1 token$"):
        block(0.5, side)
    with pytest.raises(ValueError, match=f"^side={side}: a side of at least 1 token$"):
        crop(side)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (patch(1 - 1e-9), "none of 24 units"),
        (block(1 - 1e-9, 2), "none of 24 units"),
        (block(0.5, 4), "block=4 does not divide a grid of 4×6 tokens"),
        (block(0.5, 3), "block=3 does not divide a grid of 4×6 tokens"),
        (crop(5), "side=5 is more than the shorter side of a grid of 4×6 tokens"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(member, message):
    keys = jnp.stack([jax.random.key(0)])
    for ask in (lambda: member.sample(keys, (4, 6)), lambda: member.inclusion((4, 6))):
        with pytest.raises(ValueError, match=message):
            ask()
