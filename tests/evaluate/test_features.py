"""What all features share: batches, devices, streams; pixels; and the classifier that the data set trains."""

import itertools
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.data.pixels import to_float, to_uint8
from maskdiff_jax.evaluate.features import FEATURES, Features, Given, base, classifier, stream
from maskdiff_jax.train.parallel import collect, make_mesh, place
from tests.evaluate.digits import digits
from tests.evaluate.inception_inputs import images

SHAPE = (4, 3, 2)


def apply(params, x):
    """A network of one layer; its second feature has no more axes than the first one's batch."""
    pool = to_float(x).reshape(len(x), -1) @ params
    return {"pool": pool, "largest": pool.max(axis=1)}


PARAMS = np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)


def toy(batch=8, apply=apply, **given) -> Features:
    return Features("toy", 5, base.make_extract(apply, PARAMS, Given(SHAPE, **given), batch), batch)


def expected(x):
    return (x.reshape(len(x), -1) / 127.5 - 1) @ PARAMS


@pytest.mark.parametrize("batch", [1, 8, 30])
def test_rows_are_those_of_their_images_for_any_batch(batch):
    x, done = images(21, *SHAPE), []
    found = toy(batch).extract(x, progress=done.append)
    np.testing.assert_allclose(found["pool"], expected(x), atol=1e-5)
    np.testing.assert_allclose(found["largest"], expected(x).max(axis=1), atol=1e-5)
    assert done == [min(n, 21) for n in range(batch, 21 + batch, batch)]


def test_one_compilation_serves():
    shapes = []

    def loud(params, x):
        shapes.append(x.shape)
        return apply(params, x)

    features = toy(8, loud)
    for count in (3, 8, 21):
        features.extract(images(count, *SHAPE))
    assert shapes == [(8, *SHAPE)]


@pytest.mark.parametrize("batch", [16, 12])
def test_on_eight_devices(batch):
    mesh, spread = make_mesh(), []

    def placed(x):
        spread.append(place(mesh, x))
        return spread[-1]

    x = images(21, *SHAPE)
    features = toy(batch, place=placed, collect=collect, devices=8)
    np.testing.assert_allclose(features.extract(x)["pool"], expected(x), atol=1e-5)
    assert len(spread) == 2 and len({shard.device for shard in spread[0].addressable_shards}) == 8


@pytest.mark.parametrize("sizes", [[21], [1] * 21, [5, 0, 16], [8, 8, 5]], ids=str)
def test_a_stream_is_the_same_images_cut_anew(sizes):
    x, done = images(21, *SHAPE), []
    cuts = np.cumsum([0, *sizes])
    chunks = list(stream(toy(8), (x[a:b] for a, b in itertools.pairwise(cuts)), progress=done.append))
    assert [len(chunk["pool"]) for chunk in chunks] == [8, 8, 5] and done == [8, 16, 21]
    np.testing.assert_allclose(np.concatenate([chunk["pool"] for chunk in chunks]), expected(x), atol=1e-5)


def test_a_stream_may_have_no_end():
    """Features come as images do: nothing waits for the last."""
    chunks = stream(toy(8), (images(5, *SHAPE) for _ in itertools.count()))
    assert [len(next(chunks)["pool"]) for _ in range(3)] == [8, 8, 8]
    assert list(stream(toy(8), [])) == []


@pytest.mark.parametrize("make", [toy, lambda: FEATURES["pixels"]()(Given(SHAPE))], ids=["network", "pixels"])
@pytest.mark.parametrize(
    "bad", [images(2, 3, 4, 2), images(4, 3, 2), images(0, *SHAPE), images(2, *SHAPE).astype(np.float32)], ids=np.shape
)
def test_bad_images(make, bad):
    with pytest.raises(ValueError, match=r"uint8 images \[n, 4, 3, 2\], n at least 1, got (uint8|float32) \["):
        make().extract(bad)


def test_pixels_are_the_images():
    """Distances between features are distances between images, in the library's units."""
    features, x = FEATURES["pixels"]()(Given(SHAPE)), images(3, *SHAPE)
    pool = features.extract(x)["pool"]
    assert pool.shape == (3, features.dims) and pool.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(pool).reshape(x.shape), x)
    assert features.extract(np.array([0, 255], np.uint8).repeat(24).reshape(2, *SHAPE))["pool"].tolist() == [
        [-1] * 24,
        [1] * 24,
    ]


@pytest.fixture
def fast():
    """Training is many steps of a small program: here, unlike elsewhere in the suite, optimising pays."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def given(count=1437, **more) -> Given:
    x, labels = digits()
    x, labels = to_uint8(x), labels.astype(np.int32)
    return Given((8, 8, 1), lambda: (x[:count], labels[:count]), lambda: (x[1437:], labels[1437:]), **more)


def test_the_classifier_reads_digits(fast, tmp_path, monkeypatch):
    """Held-out digits, after seconds; and what it has learned is kept for the next time."""
    make, data = partial(FEATURES["classifier"], steps=100, width=16, learning_rate=0.01), given(cache=tmp_path)
    features = make()(data)
    assert features.about["heldout_accuracy"] > 0.97
    found = features.extract(data.heldout()[0])
    assert found["pool"].shape == (360, features.dims) == (360, 64) and found["logits"].shape == (360, 10)
    accuracy = np.mean(found["logits"].argmax(axis=1) == data.heldout()[1])
    assert accuracy == features.about["heldout_accuracy"]
    within = np.mean([found["pool"][data.heldout()[1] == digit].var(axis=0).sum() for digit in range(10)])
    assert within < 0.5 * found["pool"].var(axis=0).sum()  # features tell the classes apart, too

    monkeypatch.setattr(sys.modules[classifier.__module__], "train", None)  # not again
    again = make(cache=str(tmp_path))(data._replace(cache=None))
    assert again.about == features.about
    np.testing.assert_array_equal(again.extract(data.heldout()[0])["pool"], found["pool"])


TINY = {"steps": 3, "width": 4, "batch": 40}


def test_the_same_seed_trains_the_same_classifier(tmp_path):
    """Again from nothing, and again from a file that is broken; another seed or other data are another classifier."""
    data = given(40, cache=tmp_path)
    pool = {}
    for name, options, kept in [("a", {}, True), ("b", {}, False), ("c", {"seed": 1}, True)]:
        features = FEATURES["classifier"](**TINY, **options)(data if kept else data._replace(cache=None))
        pool[name] = features.extract(data.train()[0])["pool"]
    np.testing.assert_array_equal(pool["a"], pool["b"])
    assert np.abs(pool["a"] - pool["c"]).max() > 1e-3
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-40])
    repaired = FEATURES["classifier"](**TINY)(data)
    np.testing.assert_array_equal(repaired.extract(data.train()[0])["pool"], pool["a"])
    FEATURES["classifier"](**TINY)(given(39, cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_classifier_needs_labels_and_numbers_in_range():
    data = given(40)
    with pytest.raises(ValueError, match="need training images with labels: choose other features"):
        FEATURES["classifier"]()(Given((8, 8, 1)))
    with pytest.raises(ValueError, match="need training images with labels"):
        FEATURES["classifier"]()(data._replace(train=lambda: (data.train()[0], None)))
    with pytest.raises(ValueError, match=r"labels must be 0, 1, ... for 40 images, got shape \[39\]"):
        FEATURES["classifier"]()(data._replace(train=lambda: (data.train()[0], data.train()[1][1:])))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        FEATURES["classifier"]()(data._replace(train=lambda: (data.train()[0], 0 * data.train()[1])))
    for options, error in [
        ({"steps": 0}, "warmup must be"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"batch": 0}, "batch must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=error):
            FEATURES["classifier"](**options)


def test_images_may_be_jax_arrays_on_the_way_in():
    """What a sampler leaves on the device need not be fetched first."""
    x = images(5, *SHAPE)
    np.testing.assert_array_equal(toy(4).extract(jnp.asarray(x))["pool"], toy(4).extract(x)["pool"])
