"""From host batches to training images: resident and streamed feeds agree to the bit, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskdiff_jax.data import Batches, ToDevice, feed, none, standard, to_float, to_uint8
from tests.data.conftest import numbered


@pytest.fixture(scope="module")
def sharding():
    return NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))


@pytest.mark.parametrize("labels", [True, False])
def test_resident_equals_streamed(sharding, labels):
    """All four feeds give the images that the host itself works out, laid out as asked."""
    source, augment = numbered(10, labels=labels), standard(pad=2)
    host = Batches(source, 16, seed=0, augment=augment)
    for layout in (None, sharding):
        for resident in (True, False):
            batches, ingest, table = feed(source, 16, 0, augment, sharding=layout, resident=resident, prefetch=0)
            assert (table is not None) == resident
            step = jax.jit(ingest)
            for s in range(2):
                raw, expected = next(batches), host.at(s)
                assert "number" not in raw and ("image" in raw) != resident
                image, cond = step(raw, table)
                pixels = augment.apply(expected["image"], expected["controls"])
                np.testing.assert_array_equal(to_uint8(image), pixels)
                np.testing.assert_allclose(image, to_float(pixels), atol=1e-6)
                assert (cond.label is not None) == labels
                if labels:
                    np.testing.assert_array_equal(cond.label, expected["label"])
                if layout is not None:
                    assert raw["index"].sharding.is_equivalent_to(sharding, 1)
                    assert image.sharding.is_equivalent_to(sharding, 4)
            batches.close()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_state_is_that_of_the_batch_handed_out(depth):
    """Batches in flight do not count, and after set_state they are gone."""
    source = numbered(10)
    batches = ToDevice(Batches(source, 4, 0, prefetch=0), depth=depth)
    steps, indices = [batches.get_state()["step"]], []
    for _ in range(3):
        indices.append(np.asarray(next(batches)["index"]))
        steps.append(batches.get_state()["step"])
    assert steps == [0, 1, 2, 3]
    other = ToDevice(Batches(source, 4, 0, prefetch=0), depth=depth)
    for iterator in (batches, other):
        iterator.set_state({**batches.get_state(), "step": 1})
        assert iterator.get_state()["step"] == 1
        np.testing.assert_array_equal(next(iterator)["index"], indices[1])
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        ToDevice(Batches(source, 4, 1)).set_state(batches.get_state())
    batches.close()


def test_one_program_serves_every_step():
    batches, ingest, table = feed(numbered(10), 4, 0, none(), resident=True, prefetch=0)
    step = jax.jit(ingest)
    for _ in range(3):
        step(next(batches), table)
    assert step._cache_size() == 1


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth=0"):
        ToDevice(Batches(numbered(3), 1, 0), depth=0)


@pytest.mark.parametrize("xp", [np, jnp])
def test_pixels_round_trip(xp):
    """Every level survives, ends on ±1, and values outside are clipped."""
    levels = xp.arange(256, dtype=xp.uint8)
    images = to_float(levels)
    assert images.dtype == xp.float32 and images[0] == -1 and images[255] == 1
    np.testing.assert_array_equal(to_uint8(images), levels)
    np.testing.assert_array_equal(to_uint8(images + 0.49 / 127.5), levels)  # rounded, not truncated
    np.testing.assert_array_equal(to_uint8(xp.asarray([-3.0, 3.0])), [0, 255])
