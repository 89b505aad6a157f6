"""Nulls keep shapes and types; dropping nulls semantics alone or everything, at the stated rates, and nothing else.

Text padding lays the real tokens out over the whole length, image by image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.cond import (
    NULL_CONTROL,
    NULL_LABEL,
    PARTS,
    TEXT_PADDINGS,
    drop,
    noisy_replicate_padding,
    null,
    replicate_padding,
    zero_padding,
)
from maskdiff_jax.types import Cond
from tests.masks.contract import assert_mean, assert_reproducible, assert_variance, on_all_devices


def full(b: int) -> Cond:
    """A condition with every part present and nowhere null."""
    return Cond(
        label=jnp.arange(b, dtype=jnp.int32),
        text=jnp.ones((b, 3, 2)),
        text_mask=jnp.ones((b, 3), bool),
        pooled=jnp.ones((b, 4)),
        controls_high=jnp.ones((b, 2)),
        controls_low=jnp.ones((b, 1)),
    )


NULLS = Cond(NULL_LABEL, 0, False, 0, NULL_CONTROL, NULL_CONTROL)


def is_null(cond: Cond) -> dict[str, np.ndarray]:
    """For each part present, whether it is null [b]; a part that is half null fails."""
    found = {}
    for name, value in cond._asdict().items():
        if value is not None:
            hit = np.asarray(value == getattr(NULLS, name)).reshape(len(value), -1)
            assert np.all(hit.all(axis=1) == hit.any(axis=1))
            found[name] = hit.all(axis=1)
    return found


@pytest.mark.parametrize("which", PARTS)
def test_null_replaces_the_named_parts_only_and_keeps_shapes_and_types(which):
    cond = full(2)
    nulled = null(cond, which)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), nulled) == jax.tree.map(lambda x: (x.shape, x.dtype), cond)
    for name, hit in is_null(nulled).items():
        assert np.all(hit == (name in PARTS[which])), name
    assert jax.tree.all(jax.tree.map(jnp.array_equal, null(nulled, which), nulled))


@pytest.mark.parametrize("which", PARTS)
def test_absent_parts_stay_absent(which):
    assert null(Cond(), which) == Cond()
    nulled = null(Cond(label=jnp.array([3])), which)
    assert nulled._replace(label=None) == Cond()


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="which='label': choose from semantics, controls, all"):
        null(full(1), "label")


def test_drop_keeps_its_rates_and_never_leaves_semantics_without_controls():
    b, semantics, everything = 20_000, 0.2, 0.1
    hit = is_null(drop(jax.random.split(jax.random.key(0), b), full(b), semantics, everything))
    for name in PARTS["semantics"]:
        np.testing.assert_array_equal(hit[name], hit["label"])
    np.testing.assert_array_equal(hit["controls_low"], hit["controls_high"])
    assert not np.any(hit["controls_high"] & ~hit["label"])
    assert_mean(hit["label"] & ~hit["controls_high"], semantics)
    assert_mean(hit["controls_high"], everything)


@pytest.mark.parametrize(("rates", "which"), [((1.0, 0.0), "semantics"), ((0.0, 1.0), "all")])
def test_a_rate_of_one_is_the_null_itself(rates, which):
    cond = full(4)
    dropped = drop(jax.random.split(jax.random.key(0), 4), cond, *rates)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, dropped, null(cond, which)))


def test_rates_of_zero_change_nothing():
    cond = full(4)
    assert drop(jax.random.split(jax.random.key(0), 4), cond) is cond


def test_a_label_alone_can_be_dropped():
    dropped = drop(jax.random.split(jax.random.key(0), 64), Cond(label=jnp.arange(64)), 0.5)
    assert set(np.unique(np.asarray(dropped.label) == NULL_LABEL)) == {True, False}
    assert dropped._replace(label=None) == Cond()


def test_drops_are_bit_equal_under_jit_on_eight_devices_and_for_any_cut_of_the_batch():
    label = lambda keys: jnp.zeros(keys.shape[0], jnp.int32)  # noqa: E731
    assert_reproducible(lambda keys: drop(keys, Cond(label=label(keys)), 0.4, 0.2).label)


@pytest.mark.parametrize("rates", [(-0.1, 0.0), (0.0, -0.1), (0.7, 0.4)])
def test_rates_that_are_no_probabilities_are_refused(rates):
    with pytest.raises(ValueError, match="sum of at most 1"):
        drop(jax.random.split(jax.random.key(0), 2), full(2), *rates)


L, D = 7, 3
KEYS = jax.random.split(jax.random.key(1), 4)
WORDS = np.random.default_rng(0).standard_normal((4, L, D), np.float32)  # masked positions hold garbage
COUNTS = [1, 3, 7, 0]
MASK = np.arange(L)[None] < np.array(COUNTS)[:, None]
TEXT = Cond(text=jnp.asarray(WORDS), text_mask=jnp.asarray(MASK), label=jnp.arange(4))
every_padding = pytest.mark.parametrize("name", TEXT_PADDINGS)


def test_zero_padding_clears_what_is_masked_and_nothing_else():
    padded = zero_padding()(KEYS, TEXT)
    np.testing.assert_array_equal(padded.text, np.where(MASK[:, :, None], WORDS, 0))
    np.testing.assert_array_equal(padded.text_mask, MASK)


def test_replicate_padding_repeats_the_real_tokens_in_turn():
    padded = replicate_padding()(KEYS, TEXT)
    for i, n in enumerate(COUNTS[:3]):
        np.testing.assert_array_equal(padded.text[i], np.tile(WORDS[i, :n], (L, 1))[:L])
        assert np.all(padded.text_mask[i])


def test_real_tokens_may_stand_anywhere():
    order = np.array([5, 0, 6, 1, 2, 3, 4])  # real tokens of image 1 at places 1, 3 and 4
    scattered = TEXT._replace(text=TEXT.text[:, order], text_mask=TEXT.text_mask[:, order])
    expected = replicate_padding()(KEYS, TEXT)
    np.testing.assert_array_equal(replicate_padding()(KEYS, scattered).text[1], expected.text[1])


@every_padding
def test_a_text_without_tokens_is_the_null_and_nothing_else_is_touched(name):
    padded = TEXT_PADDINGS[name]()(KEYS, TEXT)
    nulled = null(TEXT)
    np.testing.assert_array_equal(padded.text[3], nulled.text[3])
    np.testing.assert_array_equal(padded.text_mask[3], nulled.text_mask[3])
    assert padded._replace(text=TEXT.text, text_mask=TEXT.text_mask) == TEXT
    assert (padded.text.shape, padded.text.dtype) == (TEXT.text.shape, TEXT.text.dtype)
    assert TEXT_PADDINGS[name]()(KEYS, Cond(label=TEXT.label)) == Cond(label=TEXT.label)


@every_padding
def test_padding_and_dropping_commute(name):
    pad, other = TEXT_PADDINGS[name](), jax.random.split(jax.random.key(2), 4)
    one, two = pad(KEYS, drop(other, TEXT, 0.5)), drop(other, pad(KEYS, TEXT), 0.5)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one, two))
    assert 0 < np.sum(np.asarray(one.label) == NULL_LABEL) < 4


def test_noise_is_the_same_under_jit_on_eight_devices_and_for_any_cut_of_the_batch():
    def pad(keys):
        images = jax.tree.map(lambda a: jnp.repeat(a[1:2], keys.shape[0], axis=0), TEXT)
        return noisy_replicate_padding(0.3)(keys, images).text

    keys, jitted = jax.random.split(jax.random.key(3), 16), jax.jit(pad)
    drawn = np.asarray(jitted(keys))
    np.testing.assert_allclose(pad(keys[2:6]), drawn[2:6], atol=1e-6)
    np.testing.assert_allclose(jitted(on_all_devices(keys)), drawn, atol=1e-6)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


def test_noisy_replicate_without_noise_is_replicate():
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, noisy_replicate_padding(0.0)(KEYS, TEXT), replicate_padding()(KEYS, TEXT))
    )


def test_copies_have_the_stated_noise_and_the_tokens_themselves_none():
    b, beta = 2000, 0.3
    same = jax.tree.map(lambda a: jnp.repeat(a[1:2], b, axis=0), TEXT)  # 3 tokens of 7: laid out 3 times
    noisy = jax.jit(noisy_replicate_padding(beta))(jax.random.split(jax.random.key(4), b), same).text
    noise = np.asarray(noisy) - np.tile(WORDS[1, :3], (3, 1))[:L]
    np.testing.assert_array_equal(noise[:, :3], 0)
    assert_mean(noise[:, 3:], 0.0)
    std = WORDS[1, :3].std(axis=0)
    assert_variance(noise[:, 3:], np.tile((beta * std) ** 2 * (3 - 1), (4, 1)))
    flat = noise[:, 3:].reshape(b, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(flat.shape[1])).max() < 0.12  # drawn anew for every position and channel


def test_a_full_text_and_a_single_token_get_no_noise():
    noisy, plain = noisy_replicate_padding(1.0)(KEYS, TEXT).text, replicate_padding()(KEYS, TEXT).text
    np.testing.assert_array_equal(noisy[2], plain[2])  # laid out once
    np.testing.assert_array_equal(noisy[0], plain[0])  # one token has no spread
    assert np.abs(noisy[1] - plain[1]).max() > 0.1


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_no_size_is_refused(noise):
    with pytest.raises(ValueError, match=f"noisy_replicate: noise must be finite and at least 0, got {noise}"):
        noisy_replicate_padding(noise)


@every_padding
def test_text_without_its_mask_is_refused(name):
    with pytest.raises(ValueError, match=r"cond\.text comes without cond\.text_mask"):
        TEXT_PADDINGS[name]()(KEYS, TEXT._replace(text_mask=None))
