import io

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.moments import fid, moments
from maskdiff_jax.evaluate.metrics.statistics_files import (
    About,
    Reference,
    cached_reference,
    read_reference,
    write_reference,
)
from tests.evaluate.metrics.clouds import cloud

ABOUT = About("inception", "ab" * 32, "cd" * 32, 50)
OURS = Reference(moments(cloud(0, 50)), moments(cloud(1, 50, 3)), ABOUT)


def assert_same(a, b):
    for ours, theirs in ((a.moments, b.moments), (a.spatial, b.spatial)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.count == theirs.count
            np.testing.assert_array_equal(ours.mean, theirs.mean)
            np.testing.assert_array_equal(ours.covariance, theirs.covariance)
    assert a.about == b.about


@pytest.mark.parametrize("reference", [OURS, OURS._replace(spatial=None)], ids=["spatial", "pool"])
def test_round_trip(tmp_path, reference):
    write_reference(tmp_path / "a.npz", reference)
    assert_same(read_reference(tmp_path / "a.npz", 8), reference)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:  # as other tools read it
        assert {"mu", "sigma", "features", "weights", "data", "count"} <= set(arrays.files)


def test_files_of_others(tmp_path):
    """ADM's have images and spatial statistics besides, EDM's the two arrays alone; their counts are not known."""
    mu, sigma = OURS.moments[:2]
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)
    np.savez(
        tmp_path / "adm.npz",
        mu=mu.astype(np.float32),
        sigma=sigma,
        mu_s=OURS.spatial.mean,
        sigma_s=OURS.spatial.covariance,
        arr_0=np.zeros((2, 4, 4, 3), np.uint8),
    )
    edm, adm = read_reference(tmp_path / "edm.npz"), read_reference(tmp_path / "adm.npz")
    assert edm.about is adm.about is edm.spatial is None
    assert edm.moments.count == adm.moments.count == adm.spatial.count == 0
    assert adm.moments.mean.dtype == np.float64
    np.testing.assert_array_equal(adm.spatial.covariance, OURS.spatial.covariance)
    fake = moments(cloud(5, 40))
    assert fid(fake, edm.moments) == fid(fake, OURS.moments)


def test_computed_once_for_what_it_is_of(tmp_path):
    calls = []

    def compute():
        calls.append(0)
        return Reference(OURS.moments, OURS.spatial)

    for _ in range(2):
        assert_same(cached_reference(tmp_path / "new", ABOUT, compute), OURS)
    assert len(calls) == 1
    for change in ({"data": "x"}, {"features": "pixels"}, {"weights": ""}, {"count": 49}):
        cached_reference(tmp_path / "new", ABOUT._replace(**change), compute)
    assert len(calls) == 5
    (file,) = (path for path in (tmp_path / "new").iterdir() if read_reference(path).about == ABOUT)
    write_reference(file, OURS._replace(about=ABOUT._replace(data="x")))
    with pytest.raises(ValueError, match="delete the file"):
        cached_reference(tmp_path / "new", ABOUT, compute)


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def single():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a statistics file"),
        (b"", "not a statistics file"),
        (saved(mu=np.zeros(2), sigma=np.eye(2))[:200], "not a statistics file"),
        (saved(mu=np.array([None, {}]), sigma=np.eye(2)), "not a statistics file .*allow_pickle=False"),
        (single(), "single array"),
        (saved(mu=np.zeros(2)), "no sigma, only mu"),
        (saved(arr_0=np.zeros(2)), "no mu and no sigma, only nothing"),
        (saved(mu=np.zeros(3), sigma=np.eye(2)), r"mu \[3\] and sigma \[2, 2\] are not \[d\] and \[d, d\]"),
        (saved(mu=np.zeros(2), sigma=np.eye(2) * np.nan), "mu or sigma is not of finite floats"),
        (saved(mu=np.zeros(2, int), sigma=np.eye(2)), "mu or sigma is not of finite floats"),
        (saved(mu=np.zeros(8), sigma=np.eye(8), mu_s=np.zeros(2)), "no sigma_s"),
        (saved(mu=np.zeros(2), sigma=np.eye(2)), "statistics of 2 features, 8 needed"),
    ],
)
def test_bad_files_in_one_line(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_reference(tmp_path / "a.npz", 8)
    assert "a.npz: " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"b\.npz: no such statistics file"):
        read_reference(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="what they are of"):
        write_reference(tmp_path / "b.npz", OURS._replace(about=None))
