import tracemalloc

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.images import collect
from maskdiff_jax.evaluate.metrics.moments import moments
from tests.evaluate.metrics.clouds import cloud

POOL, LOGITS, SPATIAL = cloud(0, 3000), cloud(1, 3000, 5), cloud(2, 3000, 3)


def stream(ends):
    for part in np.split(np.arange(3000), ends):
        yield {"pool": POOL[part], "logits": LOGITS[part], "spatial": SPATIAL[part]}


@pytest.mark.parametrize("ends", [[], [1, 2, 900, 2500], range(70, 3000, 70)], ids=["one", "uneven", "many"])
def test_all_of_a_stream_however_it_is_cut(ends):
    images = collect(stream(ends), ("pool", "logits", "moments", "spatial"))
    np.testing.assert_array_equal(images.pool, POOL)
    np.testing.assert_array_equal(images.logits, LOGITS)
    for found, features in ((images.moments, POOL), (images.spatial, SPATIAL)):
        assert found.count == 3000
        np.testing.assert_allclose(found.covariance, moments(features).covariance, atol=1e-12)
        np.testing.assert_allclose(found.mean, features.mean(axis=0, dtype=np.float64), atol=1e-12)


def test_moments_of_a_long_stream_keep_no_features():
    """26 MB of features pass by; a thousand rows in float64 and their differences from the mean are 1 MB."""

    def batches():
        for seed in range(200):
            yield {"pool": np.random.default_rng(seed).normal(size=(512, 64)).astype(np.float32)}

    tracemalloc.start()
    assert collect(batches(), ["moments"]).moments.count == 200 * 512
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_only_what_is_asked_for():
    images = collect(({"pool": part["pool"]} for part in stream([500])), {"moments"})
    assert images.moments.count == 3000
    assert images.pool is images.logits is images.spatial is None


def test_bad_streams():
    with pytest.raises(ValueError, match="samples have no spatial, only logits, pool"):
        collect([{"pool": POOL, "logits": LOGITS}], ["spatial", "pool"], "samples")
    for fields in (["pool"], ["moments"]):
        with pytest.raises(ValueError, match="no samples"):
            collect([], fields, "samples")
    with pytest.raises(ValueError, match="samples hold NaN"):
        collect([{"pool": POOL * np.nan}], ["moments"], "samples")
