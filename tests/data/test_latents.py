"""Stored latents: what is read, what is drawn from them on the device, and folders that are not whole."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.codec import latents as codec
from maskdiff_jax.data import Batches, DataError, feed, held_out, ingest, latents
from maskdiff_jax.data.augment import flip
from tests.latent_folders import arrays, write_latents

TEXT = (3, 5, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents") / "a", mirrored=True, text=TEXT)


def test_records_are_those_that_were_written(folder):
    data = latents(folder)
    assert (len(data.train), len(data.heldout), data.shape, data.dtype) == (20, 6, (4, 4, 8), "float16")
    indices = np.array([19, 0, 8, 8, 7])  # of three files
    records, written = data.train.fetch(indices), arrays(20, 0, True, TEXT)
    for name, values in written.items():
        np.testing.assert_array_equal(records[name], values[indices], strict=True)
    np.testing.assert_array_equal(records["original"], np.full((5, 2), 8))
    assert {name: (records[name].shape[1:], records[name].dtype) for name in records} == data.records


def test_without_mirrored_or_text_less_is_read(folder):
    data = latents(folder, flip=0, text=False)
    records = data.train.fetch(np.arange(20))
    np.testing.assert_array_equal(records["image"], arrays(20, 0, True)["image"][..., :4])
    assert set(records) == {"image", "label", "original"} and data.text == (0,) * 6
    every = (latents(folder), data, latents(folder, flip=0), latents(folder, text=False))
    assert len({part.fingerprint for part in every}) == 4


def test_pickled_and_threaded_reads_are_the_same(folder):
    source = latents(folder).train
    whole, copy = source.fetch(np.arange(20)), pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as threads:
        for part in threads.map(lambda i: copy.fetch(np.array([i, 3])), range(20)):
            np.testing.assert_array_equal(part["image"][1], whole["image"][3])
    assert copy.fingerprint == source.fingerprint


@pytest.mark.parametrize("resident", [False, True])
def test_half_of_the_images_are_mirrored_as_pixels_would_be(folder, resident):
    """The batches of training hold one of the two stored latents, chosen as `flip` chooses for images."""
    data = latents(folder)
    assert data.latents is not None
    stream = feed(data.train, 16, 3, data.latents.augment, resident=resident, controls_low=("flip", "target_height"))
    raw = next(stream.batches)
    batch = jax.jit(stream.ingest)(raw, stream.table)
    stream.batches.close()
    plain = Batches(data.train, 16, 3, flip()).at(0)
    chosen = plain["controls"]["flip"]
    assert 0 < chosen.sum() < 16
    pairs = plain["image"].astype(np.float32)
    expected = np.where(chosen[:, None, None, None] == 1, pairs[..., 4:], pairs[..., :4])
    np.testing.assert_array_equal(batch.image, expected)
    np.testing.assert_allclose(batch.cond.controls_low, np.stack([chosen, np.full(16, 0.3)], axis=1), rtol=1e-6)
    for name in ("text", "pooled"):
        np.testing.assert_array_equal(getattr(batch.cond, name), plain[name].astype(np.float32), strict=True)
    np.testing.assert_array_equal(batch.cond.text_mask, plain["text_mask"])


def test_held_out_ones_are_never_mirrored(folder):
    data = latents(folder, flip=1)
    assert data.latents is not None
    batch = held_out(data.heldout, data.latents.augment)
    np.testing.assert_array_equal(batch.image, arrays(6, 1, True)["image"][..., :4].astype(np.float32))


def test_latents_are_never_scaled_as_pixels_are():
    stored = np.full((1, 4, 4, 4), 3, np.float16)
    batch = ingest(flip(0), {"image": stored, "controls": {"flip": np.zeros(1, np.int32)}})
    np.testing.assert_array_equal(batch.image, stored.astype(np.float32), strict=True)


def test_the_codec_draws_from_the_gaussian_that_is_stored():
    """Mean and variance of 4,000 draws, to four standard errors; decoding undoes scale and shift."""
    scaling, shift, count = 0.4, 0.3, 4000
    one = codec(scaling, shift)
    mean, std = np.array([1.0, -2.0], np.float32), np.array([0.5, 0.0], np.float32)
    stored = jnp.broadcast_to(jnp.concatenate([mean, std]), (count, 1, 1, 4))
    keys = jax.random.split(jax.random.key(0), count)
    z = np.asarray(one.decode(None, one.encode(None, stored, keys)))[:, 0, 0]
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=4 * 0.5 / count**0.5)
    np.testing.assert_allclose(z.std(axis=0), std, atol=4 * 0.5 / (2 * count) ** 0.5)
    codes = np.asarray(one.encode(None, stored, keys))[:, 0, 0]
    np.testing.assert_allclose(codes, (z - shift) * scaling, atol=1e-6)
    np.testing.assert_array_equal(one.encode(None, stored[:3], keys[7:10])[:, 0, 0], codes[7:10])
    assert one.shape((1, 1, 4)) == (1, 1, 2)
    with pytest.raises(ValueError, match="5 channels"):
        one.shape((1, 1, 5))


def changed(folder, tmp_path, change):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    change(copy)
    return copy


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def index(copy, **values):
    whole = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(whole | values))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: cut(f / "train-8.array_record"), r"train-8\.array_record has [\d,]+ bytes, not [\d,]+: remove it"),
        (lambda f: (f / "heldout-0.array_record").unlink(), r"heldout-0\.array_record is missing"),
        (lambda f: (f / "index.json").unlink(), "has no index.json"),
        (lambda f: cut(f / "index.json"), "index.json cannot be read"),
        (lambda f: index(f, version=2), "is not of the format"),
        (lambda f: (f / "index.json").write_text("[]"), "is not of the format"),
    ],
)
def test_folders_that_are_not_whole_are_one_line(folder, tmp_path, change, message):
    with pytest.raises(DataError, match=message) as error:
        latents(changed(folder, tmp_path, change))
    assert "\n" not in str(error.value)


def test_a_broken_record_is_one_line(folder, tmp_path):
    def overwrite(copy):
        path = copy / "train-0.array_record"
        data = bytearray(path.read_bytes())
        data[1000:1400] = bytes(400)
        path.write_bytes(data)

    source = latents(changed(folder, tmp_path, overwrite)).train
    with pytest.raises(DataError, match="cannot be read") as error:
        source.fetch(np.arange(8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path": None}, "name the folder"),
        ({"path": "/nowhere"}, "no such folder; --mode=encode makes it"),
        ({"flip": 2}, "flip=2"),
        ({"tile": -1}, "tile=-1"),
        ({"vae": "/nowhere"}, "vae='/nowhere'"),
    ],
)
def test_options(folder, options, message):
    with pytest.raises(DataError, match=message):
        latents(**{"path": folder, **options})
