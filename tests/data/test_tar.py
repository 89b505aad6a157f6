"""Tars of images: what is found beside them, what is held out, and files that are cut."""

import gzip
import pickle

import numpy as np
import pytest

from maskdiff_jax.data import DataError, tar
from tests.data.pictures import noise
from tests.latent_folders import captioned, write_tar


def everything(data):
    return [data.train.samples[i] for i in range(len(data.train))] + list(data.heldout.samples)


@pytest.fixture
def shards(tmp_path):
    """Two tars with the same stems in them."""
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", captioned(10, first=0 if name == "a" else 5))
    return tmp_path


def test_images_labels_captions_and_sizes(shards):
    data = tar(shards, 8, heldout=4)
    assert (len(data.train), len(data.heldout), data.classes, data.captions) == (16, 4, 2, True)
    seen = set()
    for source in (data.train, data.heldout):
        indices = np.arange(len(source))
        records, captions = source.fetch(indices), source.captions(indices)
        for i, sample in enumerate(source.samples):
            name, number = sample.key.split("/")[0], int(sample.key.split("/")[1])
            seen.add((name, number))
            assert records["label"][i] == number % 2
            assert captions[i] == (f"cat {number}" if number % 3 else "")
            assert records["original"][i].tolist() == [8, 8 + number % 3]
            if number % 3 == 0:  # a square, and so untouched
                np.testing.assert_array_equal(records["image"][i], noise(number, 8, 8))
    assert seen == {(f"{name}.tar", i) for name, first in (("a", 0), ("b", 5)) for i in range(first, first + 10)}


def test_one_tar_a_pattern_and_pickling(shards):
    whole = tar(shards, 8)
    assert tar(str(shards / "*.tar"), 8).fingerprint == whole.fingerprint
    one = tar(shards / "a.tar", 8, heldout=3)
    assert len(one.train) == 7
    copy = pickle.loads(pickle.dumps(one.train))
    np.testing.assert_array_equal(copy.fetch(np.array([3, 3]))["image"][0], one.train.fetch(np.array([3]))["image"][0])
    others = (tar(shards, 4), tar(shards, 8, captions=False), tar(shards, 8, labels=False), tar(shards, 8, heldout=2))
    assert len({data.fingerprint for data in (whole, one, *others)}) == 6


def test_more_tars_do_not_reshuffle_the_others(shards):
    held = {sample.key for sample in tar(shards, 8, heldout=0.4).heldout.samples}
    write_tar(shards / "c.tar", captioned(10))
    more = {sample.key for sample in tar(shards, 8, heldout=0.4).heldout.samples}
    assert held == {key for key in more if not key.startswith("c.tar")} and len(more) > len(held) > 0


def test_captions_in_json_and_what_is_not_asked_for(tmp_path):
    samples = {
        "x/1": {"png": noise(1, 8, 8), "json": {"caption": "{one}", "url": 3}},
        "x/2.seg": {"png": noise(2, 8, 8), "json": {"url": 3}},
        "x/3": {"png": noise(3, 8, 8), "txt": "{three}", "json": {"caption": "no"}},
        "x/.hidden": {"png": noise(4, 8, 8)},
    }
    path = write_tar(tmp_path / "a.tar", samples)
    data = tar(path, 8, heldout=1)
    found = {
        s.key: c
        for t in (data.train, data.heldout)
        for s, c in zip(t.samples, t.captions(np.arange(len(t))), strict=True)
    }
    assert found == {"a.tar/x/1": "{one}", "a.tar/x/2.seg": "", "a.tar/x/3": "{three}"}
    assert data.classes == 0 and "label" not in data.train.fetch(np.array([0]))
    assert not tar(path, 8, heldout=1, captions=False).captions
    assert len(everything(tar(path, 8, heldout=1, leave_out=["a.tar/x/1"]))) == 2


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])


@pytest.mark.parametrize("count", [100, 512 + 60, -10240, 2048])
def test_cut_tars_are_one_line(shards, count):
    """In a header, in a file, at the end of a file, and between two."""
    cut(shards / "b.tar", count)
    with pytest.raises(DataError, match=r"b\.tar is cut, compressed or no tar") as error:
        tar(shards, 8)
    assert "\n" not in str(error.value)


def test_compressed_tars_are_refused(shards):
    (shards / "b.tar").write_bytes(gzip.compress((shards / "b.tar").read_bytes()))
    with pytest.raises(DataError, match=r"b\.tar is cut, compressed or no tar"):
        tar(shards, 8)


def test_a_broken_image_is_named_and_can_be_left_out(tmp_path):
    samples = captioned(5) | {"bad": {"jpg": b"no image", "cls": 1}}
    path = write_tar(tmp_path / "a.tar", samples)
    data = tar(path, 8, heldout=1)
    with pytest.raises(DataError, match=r"a\.tar/bad in .* cannot be read as an image") as error:
        for source in (data.train, data.heldout):
            source.fetch(np.arange(len(source)))
    assert "leave_out=('a.tar/bad',)" in str(error.value)
    left = tar(path, 8, heldout=1, leave_out=("a.tar/bad",))
    assert left.train.fetch(np.arange(4))["image"].shape == (4, 8, 8, 3)


@pytest.mark.parametrize(
    "samples, options, message",
    [
        (captioned(3), {"size": 0}, "size=0"),
        (captioned(3), {"heldout": 0}, "heldout=0"),
        (captioned(3), {"heldout": 3}, "one must be left"),
        (captioned(3), {"channels": 4}, "channels=4"),
        (captioned(3), {"path": "/nowhere/*.tar"}, "no such tar files"),
        (captioned(3), {"path": None}, "name the tar files"),
        ({"a": {"txt": "alone"}}, {}, "no image in it ends in"),
        (captioned(3) | {"a": {"png": noise(0, 4, 4), "cls": "cat"}}, {}, r"a\.cls is b'cat'"),
        (captioned(3) | {"a": {"png": noise(0, 4, 4)}}, {}, r"a\.tar/a has no \.cls"),
        ({"a": {"png": noise(0, 4, 4), "jpg": noise(1, 4, 4)}}, {}, "a is the stem of two images"),
    ],
)
def test_refusals(tmp_path, samples, options, message):
    path = write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(DataError, match=message):
        tar(**{"path": path, "size": 8, "heldout": 1, **options})
