"""Captions through an encoder into records, and into samples; whatever is refused is one line."""

import jax
import numpy as np
import pytest

from maskdiff_jax.captions import by_encoder, from_file, prompts
from maskdiff_jax.data import digits, latents, tar
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.weights.text import load_text_encoder
from tests.latent_folders import captioned, write_latents, write_tar
from tests.weights.test_text import CLIP, clip_shapes, random, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with random weights."""
    return write(tmp_path_factory.mktemp("text") / "clip", CLIP, random(clip_shapes()))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tar(write_tar(tmp_path_factory.mktemp("tar") / "a.tar", captioned(24)), 8, heldout=8)


def test_records_are_what_the_encoder_says_of_the_captions(folder, images):
    found = by_encoder(folder, make_mesh(), 5, "float32")
    encoder = load_text_encoder(folder)
    indices = np.arange(16)
    captions = images.train.captions(indices)
    assert "" in captions and len(set(captions)) > 8
    ids, mask = encoder.tokenize(captions, 5)
    tokens, pooled = jax.jit(encoder.encode)(encoder.params, ids, mask)
    records = found.of(images.train, indices, 0)
    assert {name: values.dtype.name for name, values in records.items()} == {
        "text": "float16",
        "text_mask": "bool",
        "pooled": "float16",
    }
    np.testing.assert_allclose(records["text"], np.where(mask[:, :, None], tokens, 0), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(records["pooled"], pooled, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(records["text_mask"], mask)
    assert found.sizes[1:4] == (5, 8, 8) and (~mask).any()


def test_rows_of_a_file_are_training_images_then_held_out_ones(images, tmp_path):
    text = np.random.default_rng(0).standard_normal((24, 2, 3)).astype(np.float32)
    np.savez(tmp_path / "text.npz", text=text)
    found = from_file(tmp_path / "text.npz", 24)
    records = found.of(images.heldout, np.array([1, 0]), 16)
    np.testing.assert_array_equal(records["text"], text[[17, 16]].astype(np.float16))
    assert records["text_mask"].all() and set(records) == {"text", "text_mask"}


def test_samples_are_conditioned_on_captions_in_turn(folder, tmp_path):
    data = latents(write_latents(tmp_path / "a", text=(5, 8, 8)))
    found = prompts(data, str(folder), ["cat", "photo of a cat", "c"], 7)
    encoder = load_text_encoder(folder)
    ids, mask = encoder.tokenize(["cat", "photo of a cat", "c"], 5)
    tokens, pooled = jax.jit(encoder.encode)(encoder.params, ids, mask)
    turns = np.arange(7) % 3
    np.testing.assert_allclose(found["text"], np.where(mask[:, :, None], tokens, 0)[turns], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found["pooled"], np.asarray(pooled)[turns], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(found["text_mask"], mask[turns])


@pytest.mark.parametrize(
    "text, given, message",
    [
        (None, True, "has not been trained on captions"),
        ((5, 8, 8), False, "there is no encoder in /nowhere"),
        ((5, 9, 8), True, "gives 5 tokens of 8 and a vector of 8, and this model takes 5 tokens of 9"),
    ],
)
def test_captions_that_a_model_cannot_be_given(folder, tmp_path, text, given, message):
    data = latents(write_latents(tmp_path / "a", text=text))
    with pytest.raises(ConfigError, match=message):
        prompts(data, str(folder) if given else "", ["cat"], 2)


def test_pixels_know_no_captions(folder):
    with pytest.raises(ConfigError, match="has not been trained on captions"):
        prompts(digits(), str(folder), ["cat"], 2)
