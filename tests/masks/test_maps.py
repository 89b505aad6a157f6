"""Masks as maps over the image: what is hidden is not supervised, and as much is kept as the masks say."""

import jax
import numpy as np
import pytest

from maskdiff_jax.masks import dense, mask_maps, sparse
from maskdiff_jax.masks.visibility import all_tokens, patch
from maskdiff_jax.types import Tokens
from tests.masks.contract import assert_reproducible

TOKENS = Tokens((4, 4), 2)
SEGMENTS = (Tokens((4, 4), 2, (0, 1)), Tokens((2, 2), 4, (1, 3)))
SHAPE = (8, 8, 3)


def maps(visibility, supervision, segments=TOKENS, count=64):
    keys = jax.random.split(jax.random.key(0), count)
    return tuple(np.asarray(x) for x in mask_maps(visibility, supervision, segments, SHAPE, keys))


def test_whole_tokens_are_hidden_and_elements_of_the_others_kept():
    visible, kept = maps(patch(0.75), sparse(0.5, exact=True))
    assert visible.shape == kept.shape == (64, *SHAPE)
    tokens = visible.reshape(64, 4, 2, 4, 2, 3).swapaxes(2, 3).reshape(64, 16, -1)
    assert (tokens.all(axis=2) == tokens.any(axis=2)).all() and (tokens.all(axis=2).sum(axis=1) == 4).all()
    assert not (kept & ~visible).any()
    assert (kept.sum(axis=(1, 2, 3)) == 4 * 12 // 2).all()
    assert kept.any(axis=0).all()  # anywhere, over the draws


@pytest.mark.parametrize("segments", [TOKENS, SEGMENTS, None], ids=["tokens", "segments", "none"])
def test_dense_training_on_all_tokens_masks_nothing(segments):
    visible, kept = maps(all_tokens(), dense(), segments, 3)
    assert visible.all() and kept.all()


def test_segments_are_masked_each_by_itself():
    visible, _ = maps(patch(0.5), dense(), SEGMENTS)
    for channels in (slice(0, 1), slice(1, 3)):
        np.testing.assert_array_equal(visible[..., channels].mean(axis=(1, 2, 3)), 0.5)
    assert (visible[..., 0] != visible[..., 1]).any() and (visible[..., 1] == visible[..., 2]).all()


def test_pixels_of_a_network_without_tokens():
    visible, kept = maps(all_tokens(), sparse(0.9, unit="pixel"), None)
    assert visible.all() and (kept.all(axis=3) == kept.any(axis=3)).all()
    assert abs(kept.mean() - 0.1) < 0.02


def test_draws_depend_on_the_key_alone():
    for part in (0, 1):
        assert_reproducible(lambda keys, part=part: mask_maps(patch(0.5), sparse(0.5), SEGMENTS, SHAPE, keys)[part])
