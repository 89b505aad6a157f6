import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import rng
from maskdiff_jax.evaluate.sampling import balanced_labels, make_generate
from maskdiff_jax.types import Cond

PARAMS = {"scale": jnp.float32(0.25)}


def sample(params, keys, cond):
    """Noise around the label: what an image is drawn from can be read off it."""
    noise = params["scale"] * rng.normal(keys, (2, 2, 1))
    return noise if cond.label is None else noise + cond.label.astype(jnp.float32)[:, None, None, None] / 10


@pytest.mark.parametrize("batch_size", [4, 100])
def test_independent_of_the_batch_size(batch_size):
    cond = Cond(label=balanced_labels(23, 10))
    expected = make_generate(sample, batch_size=8)(PARAMS, 23, cond)
    images = make_generate(sample, batch_size=batch_size)(PARAMS, 23, cond)
    assert images.shape == (23, 2, 2, 1)
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_images_differ_and_follow_seed_and_label():
    generate = make_generate(sample, batch_size=8)
    noise = generate(PARAMS, 20)
    assert len(np.unique(noise[:, 0, 0, 0])) == 20
    np.testing.assert_array_equal(generate(PARAMS, 5), noise[:5])
    assert not np.array_equal(generate(PARAMS, 20, seed=1), noise)
    labelled = generate({"scale": jnp.float32(0)}, 20, Cond(label=balanced_labels(20, 10)))
    np.testing.assert_allclose(labelled[:, 0, 0, 0], np.arange(20) % 10 / 10, atol=1e-6)


def test_any_part_of_the_images_can_be_drawn_alone():
    generate, cond = make_generate(sample, batch_size=8), Cond(label=balanced_labels(23, 10))
    part = generate(PARAMS, 12, Cond(label=cond.label[11:]), first=11)
    np.testing.assert_array_equal(part, generate(PARAMS, 23, cond)[11:])


def test_clipped_counted_and_compiled_once():
    shapes, done = [], []

    def loud(params, keys, cond):
        shapes.append(keys.shape)
        return 100 * sample(params, keys, cond)

    images = make_generate(loud, batch_size=8)(PARAMS, 20, progress=done.append)
    assert np.abs(images).max() == 1
    assert shapes == [(8,)] and done == [8, 16, 20]


def test_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    many = make_generate(sample, batch_size=8, place=lambda tree: jax.device_put(tree, spread))
    np.testing.assert_allclose(many(PARAMS, 20), make_generate(sample)(PARAMS, 20), atol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match=r"3 samples need as many conditions, got \[2\]"):
        make_generate(sample)(PARAMS, 3, Cond(label=balanced_labels(2, 10)))
