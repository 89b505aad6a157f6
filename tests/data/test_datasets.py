"""What every data set promises, and what is particular to each."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from maskdiff_jax.data import ArraySource, Batches, DataError, digits, tfds
from tests.data.conftest import numbered


def test_records(dataset):
    """Images and labels have the declared shape, type and range, in the order asked for, repeats included."""
    indices = np.array([2, 0, 2, 1])
    for source in (dataset.train, dataset.heldout):
        records = source.fetch(indices)
        assert records["image"].dtype == dataset.dtype and records["image"].shape == (4, *dataset.shape)
        whole = source.fetch(np.arange(len(source)))
        assert ("label" in records) == bool(dataset.classes)
        if dataset.classes:
            assert records["label"].dtype == np.int32 and records["label"].shape == (4,)
            assert set(np.unique(whole["label"])) <= set(range(dataset.classes))
        for name, values in records.items():
            np.testing.assert_array_equal(values, whole[name][indices])
        if source is dataset.train:
            extras = {name: (4, *shape) for name, shape in dataset.extras}
            assert extras == {n: v.shape for n, v in records.items() if n not in ("image", "label")}
            assert all(records[name].dtype == np.int32 for name in extras)
    assert dataset.class_names == () or len(dataset.class_names) == dataset.classes


def test_split_shares_no_image(dataset):
    train, heldout = (
        {image.tobytes() for image in source.fetch(np.arange(len(source)))["image"]}
        for source in (dataset.train, dataset.heldout)
    )
    assert not train & heldout
    assert dataset.train.fingerprint != dataset.heldout.fingerprint


def test_restart_gives_the_same_batches(dataset):
    """Two iterators agree, and a third that starts in the middle of an epoch joins them."""
    first, second = (Batches(dataset.train, 4, seed=3) for _ in range(2))
    batches = [next(first) for _ in range(5)]
    for ours, theirs in zip(batches, second, strict=False):
        _equal(ours, theirs)
    third = Batches(dataset.train, 4, seed=3, prefetch=0)
    third.set_state({**third.get_state(), "step": 2})
    for ours in batches[2:]:
        _equal(ours, next(third))
    for iterator in (first, second, third):
        iterator.close()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_take_contiguous_slices(dataset, hosts):
    whole = Batches(dataset.train, 8, seed=1).at(3)
    parts = [Batches(dataset.train, 8, seed=1, process_index=i, process_count=hosts).at(3) for i in range(hosts)]
    for name in whole.keys() - {"controls"}:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_digits():
    """All 1,797 digits once; grey levels are the 17 ink levels; every class is held out in proportion."""
    data = digits()
    assert (len(data.train), len(data.heldout), data.shape, data.classes) == (1500, 297, (8, 8, 1), 10)
    images = np.concatenate([s.fetch(np.arange(len(s)))["image"] for s in (data.train, data.heldout)])
    np.testing.assert_array_equal(np.unique(images), np.rint(np.arange(17) * 255 / 16))
    total = np.bincount(np.concatenate([data.train.fetch(np.arange(1500))["label"], _labels(data.heldout)]))
    np.testing.assert_allclose(np.bincount(_labels(data.heldout)), total * 297 / 1797, atol=1)
    assert data.fingerprint == digits().fingerprint
    assert len({d.fingerprint for d in (data, digits(split_seed=1), digits(tint=True), digits(heldout=100))}) == 4


def test_tinted_digits_are_the_digits():
    """The brightest channel is the grey digit, and the others are one multiple of it: one colour per image."""
    grey, tinted = (digits(tint=tint).train.fetch(np.arange(50))["image"].astype(float) for tint in (False, True))
    np.testing.assert_array_equal(tinted.max(axis=3, keepdims=True), grey)
    colour = tinted.max(axis=(1, 2), keepdims=True) / grey.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(tinted, grey * colour, atol=1.01)
    assert len(np.unique(colour.reshape(50, 3), axis=0)) == 50
    assert not np.array_equal(tinted, digits(tint=True, tint_seed=1).train.fetch(np.arange(50))["image"])


def test_array_source_fingerprint_sees_every_byte():
    source, changed = numbered(5), numbered(5).image.copy()
    changed[4, 0, 0, 0] ^= 1
    others = (changed, source.label), (source.image, None), (source.image, source.label[::-1])
    assert len({source.fingerprint, *(ArraySource(*other).fingerprint for other in others)}) == 4
    assert source.fingerprint == numbered(5).fingerprint


@pytest.mark.parametrize("image, label", [(np.zeros((2, 3, 3, 1)), None), (np.zeros((2, 3, 3), np.uint8), None)])
def test_array_source_refuses_other_images(image, label):
    with pytest.raises(DataError, match="uint8"):
        ArraySource(image, label)


@pytest.mark.parametrize("label", [np.zeros(3, np.int32), np.zeros(2)])
def test_array_source_refuses_other_labels(label):
    with pytest.raises(DataError, match="int32"):
        ArraySource(np.zeros((2, 3, 3, 1), np.uint8), label)


def test_some_digits_and_few_of_them():
    """The tenth class alone, a tenth of it to train on; and a limit takes from every class alike."""
    nine = digits(classes=(9,), heldout=162)
    assert (len(nine.train), len(nine.heldout), nine.classes, nine.class_names) == (18, 162, 1, ("9",))
    whole = digits()
    nines = {image.tobytes() for s in (whole.train, whole.heldout) for image in _all(s)}
    assert {image.tobytes() for image in _all(nine.train)} <= nines
    assert set(_labels(nine.train)) == {0}
    some = digits(classes=(7, 3), limit=40)
    assert len(some.train) == 40 and sorted(np.bincount(_labels(some.train))) == [20, 20]
    sevens = digits(classes=(7,), heldout=1)
    images = {image.tobytes() for source in (sevens.train, sevens.heldout) for image in _all(source)}
    assert {i.tobytes() for i, n in zip(_all(some.train), _labels(some.train), strict=True) if n == 0} <= images


@pytest.mark.parametrize(
    "options", [{"classes": ()}, {"classes": (1, 1)}, {"classes": (10,)}, {"limit": 0}, {"limit": 1501}]
)
def test_digits_refuses_what_it_does_not_have(options):
    with pytest.raises(DataError, match=next(iter(options))):
        digits(**options)


@pytest.mark.parametrize("heldout", [0, 1797])
def test_digits_refuses_an_empty_split(heldout):
    with pytest.raises(DataError, match="heldout"):
        digits(heldout=heldout)


def test_tfds_parts_and_labels(prepared):
    """Splits may be parts; without labels the source has none; each of these is another data set."""
    whole = tfds("even", prepared)
    assert (len(whole.train), len(whole.heldout), whole.class_names) == (13, 5, ("cat", "dog", "owl"))
    parts = tfds("even", prepared, train_split="train[:9]", heldout_split="train[9:]")
    assert (len(parts.train), len(parts.heldout)) == (9, 4)
    image = np.concatenate([s.fetch(np.arange(len(s)))["image"] for s in (parts.train, parts.heldout)])
    np.testing.assert_array_equal(image, whole.train.fetch(np.arange(13))["image"])
    unlabelled = tfds("even", prepared, label_key=None)
    assert unlabelled.classes == 0 and set(unlabelled.train.fetch(np.arange(2))) == {"image"}
    assert len({d.fingerprint for d in (whole, parts, unlabelled, tfds("even", prepared, size=6))}) == 4
    assert whole.fingerprint == tfds("even:1.2.3", prepared).fingerprint


def test_tfds_size(prepared):
    """At its own size the crop is the exact central square; mixed sizes come out as one."""
    square = tfds("even", prepared, size=6).train.fetch(np.arange(13))["image"]
    np.testing.assert_array_equal(square, tfds("even", prepared).train.fetch(np.arange(13))["image"][:, :, 1:7])
    mixed = tfds("mixed", prepared, size=4)
    records = mixed.train.fetch(np.arange(2))
    assert records["image"].shape == (2, *mixed.shape) == (2, 4, 4, 3)
    assert sorted(records["original"].tolist()) == [[6, 8], [9, 5]]  # TFDS shuffles


def test_tfds_refuses_mixed_sizes(prepared):
    with pytest.raises(DataError, match="set size"):
        tfds("mixed", prepared).train.fetch(np.arange(2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset": "odd"}, r"odd/\*/ not found in data_dir=.*prepared sets there: even/1.2.3, mixed/1.2.3"),
        ({"dataset": "even:9.9.9"}, r"even/9\.9\.9/ not found"),
        ({"data_dir": "/nowhere"}, r"/nowhere/even/\*/ not found.*: none"),
        ({"dataset": "no name"}, "not of the form"),
        ({"image_key": "picture"}, "image_key='picture': even/1.2.3 has image, label"),
        ({"label_key": "lable"}, "label_key='lable': even/1.2.3 has image, label"),
        ({"label_key": "image"}, "is no class label"),
        ({"image_key": "label"}, "8-bit images"),
        ({"train_split": "trian"}, "train_split='trian': even/1.2.3 has the splits train, test"),
        ({"train_split": "train[:0]"}, "no record"),
        ({"heldout_split": "train[12:]"}, "share records"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_tfds_errors(prepared, options, message):
    with pytest.raises(DataError, match=message):
        tfds(**{"dataset": "even", "data_dir": prepared, **options})


def test_tfds_refuses_tfrecord(prepared, tmp_path):
    there = prepared / "even" / "1.2.3"
    here = tmp_path / "even" / "1.2.3"
    here.mkdir(parents=True)
    for file in there.iterdir():
        (here / file.name).write_bytes(file.read_bytes())
    info = here / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="stored as tfrecord"):
        tfds("even", tmp_path)


def test_cifar10(data_dir, capsys):
    """The real thing: shapes, classes, labels, distinct images; the rate at which it is read is printed."""
    data = tfds("cifar10", data_dir)
    assert (len(data.train), len(data.heldout), data.shape, data.classes) == (50_000, 10_000, (32, 32, 3), 10)
    assert " ".join(data.class_names) == "airplane automobile bird cat deer dog frog horse ship truck"
    start = time.perf_counter()
    records = data.train.fetch(np.arange(0, 50_000, 50))
    rate = len(records["label"]) / (time.perf_counter() - start)
    with capsys.disabled():
        print(f"\ncifar10: {rate:,.0f} decoded images/s on one thread")
    assert set(records["label"]) == set(range(10))
    assert len({image.tobytes() for image in records["image"]}) == 1000
    assert 100 < records["image"].mean() < 140 and 50 < records["image"].std() < 75


WORKER = """
import sys
import numpy as np
from absl import app
from maskdiff_jax.data import Batches, standard, tfds

def main(argv):
    source = tfds("even", argv[1]).train
    parallel, plain = (Batches(source, 4, 0, standard(pad=1), start=2, workers=w) for w in (2, 0))
    for _ in range(4):
        ours, theirs = next(parallel), next(plain)
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["number"], theirs["number"])
        np.testing.assert_array_equal(ours["controls"]["left"], theirs["controls"]["left"])
    parallel.close(), plain.close()
    assert "tensorflow" not in sys.modules

if __name__ == "__main__":
    app.run(main)
"""


def test_worker_processes_and_no_tensorflow(prepared, tmp_path):
    """Worker processes give the batches of one process, and nothing of this imports TensorFlow."""
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script, prepared]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]


def _labels(source):
    return source.fetch(np.arange(len(source)))["label"]


def _equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"controls"}:
        np.testing.assert_array_equal(ours[name], theirs[name])


def _all(source):
    return source.fetch(np.arange(len(source)))["image"]
