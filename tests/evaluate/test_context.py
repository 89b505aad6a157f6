"""What an output pixel depends on, for denoisers whose Jacobian is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.process import coeffs, linear_flow
from maskdiff_jax.evaluate.context import make_context
from maskdiff_jax.types import Batch, Cond, Denoised
from tests.samplers import analytic

PROCESS = linear_flow()
SHAPE = (5, 7, 3)
PARAMS = {"scale": jnp.float32(2)}
PIXELS = ((2, 3), (0, 6))


def data(n=6, shape=SHAPE):
    image = np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)
    return Batch(image, Cond(label=np.arange(n, dtype=np.int32)))


def context(denoise, t=(0.5,), pixels=PIXELS, images=None, **options):
    """Of the denoiser x_t, t, label -> x̂."""
    denoiser_of = lambda params: lambda x, t, cond: Denoised(denoise(params, x, t, cond.label))  # noqa: E731
    options = {"batch_size": 4, **options}
    return make_context(denoiser_of, PROCESS, t, pixels, **options)(PARAMS, images or data())


def one_hot(row, column, value=1.0):
    return np.zeros(SHAPE[:2]) + value * (np.arange(35).reshape(5, 7) == 7 * row + column)


def box(x):
    """The mean over 3×3 pixels, black outside."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + 5, j : j + 7] for i in range(3) for j in range(3)) / 9


def test_the_identity_looks_at_the_pixel_alone():
    """Each channel at itself, with the gain of the parameters: 2 for each of 3 channels."""
    for row, pixel in zip(context(lambda p, x, t, label: -p["scale"] * x, radius=0), PIXELS, strict=True):
        np.testing.assert_allclose(row.map, one_hot(*pixel, 6), rtol=1e-6)
        assert (row.t, row.pixel, row.outside, row.distance) == (0.5, pixel, 0, 0)
        assert row.outside_error == row.distance_error == 0


@pytest.mark.parametrize(("radius", "outside"), [(0, (8 / 9, 3 / 4)), (1, (0, 0))])
def test_a_box_blur_looks_at_the_box(radius, outside):
    """Nine pixels at 0, 1 and √2, four of them in a corner of the image."""
    middle, corner = context(lambda p, x, t, label: box(x), radius=radius)
    rows, columns = np.mgrid[:5, :7]
    for row, (i, j) in ((middle, PIXELS[0]), (corner, PIXELS[1])):
        near = (abs(rows - i) <= 1) & (abs(columns - j) <= 1)
        np.testing.assert_allclose(row.map, near * (3 / 9), rtol=1e-6)
    np.testing.assert_allclose([middle.outside, corner.outside], outside, rtol=1e-6)
    np.testing.assert_allclose(middle.distance, (4 + 4 * math.sqrt(2)) / 9, rtol=1e-6)
    np.testing.assert_allclose(corner.distance, (2 + math.sqrt(2)) / 4, rtol=1e-6)


def test_a_periodic_shift_looks_where_it_came_from():
    """Distances are in the image: where a shift comes around the edge it comes from the other side."""
    near, far = context(lambda p, x, t, label: jnp.roll(x, (1, 2), axis=(1, 2)), pixels=((3, 4), (0, 0)))
    np.testing.assert_allclose(near.map, one_hot(2, 2, 3), rtol=1e-6)
    np.testing.assert_allclose(far.map, one_hot(4, 5, 3), rtol=1e-6)
    np.testing.assert_allclose([near.distance, far.distance], [math.sqrt(5), math.sqrt(41)], rtol=1e-6)
    assert (near.outside, far.outside) == (0, 1)


def test_channels_do_not_cancel():
    """The sum of the absolute values of all nine entries, whose rows and columns add up to 0."""
    mix = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]], np.float32)
    row = context(lambda p, x, t, label: x @ mix, pixels=((1, 1),))[0]
    np.testing.assert_allclose(row.map, one_hot(1, 1, 6), rtol=1e-6)


def test_the_gradient_is_taken_at_x_t():
    """Of x_t²/2 it is x_t itself: for x = 0, the mean of |sigma·eps|; for large x, alpha·x."""
    denoiser_of = lambda params: lambda x, t, cond: Denoised(x**2 / 2)  # noqa: E731
    measure = make_context(denoiser_of, PROCESS, (0.1, 0.8), ((0, 0),), batch_size=1000)
    for value, expected in ((0.0, lambda t: t * math.sqrt(2 / math.pi)), (50.0, lambda t: (1 - t) * 50)):
        for row in measure(None, Batch(np.full((2000, 1, 2, 1), value, np.float32))):
            assert row.map[0, 0] == pytest.approx(expected(row.t), abs=4 * row.t / math.sqrt(2000))  # standard errors
            assert row.map[0, 1] == 0


def test_the_posterior_mean_of_a_field_looks_further_at_more_noise():
    """Gaussian data with correlations exp(-distance/2): the Jacobian is alpha·S (alpha²S + sigma²)⁻¹."""
    place = np.stack(np.mgrid[:5, :7], axis=-1).reshape(-1, 2)
    away = np.linalg.norm(place[:, None] - place, axis=-1)
    cov = np.exp(-away / 2)
    field = analytic.correlated(PROCESS, jnp.zeros(35), cov)
    found = make_context(lambda params: field, PROCESS, (0.1, 0.5, 0.9), ((2, 3),), radius=1)
    rows = found(None, data(shape=(5, 7, 1)))
    for row in rows:
        alpha, sigma = (float(value) for value in coeffs(PROCESS, row.t)[:2])
        jacobian = np.abs(alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(35)))[2 * 7 + 3]
        np.testing.assert_allclose(row.map.ravel(), jacobian, atol=1e-5)
        assert row.distance == pytest.approx(jacobian @ away[2 * 7 + 3] / jacobian.sum(), abs=1e-4)
        assert row.distance_error < 1e-6
    assert rows[0].outside < rows[1].outside < rows[2].outside
    assert rows[0].distance < rows[1].distance < rows[2].distance


def test_images_are_averaged_with_their_standard_error():
    """Image i looks at the pixel with gain 1, and with gain i at its neighbour: a ratio of means."""
    i = np.arange(6.0)
    look = lambda p, x, t, label: x + label[:, None, None, None] * jnp.roll(x, 3, axis=2)  # noqa: E731
    row = context(look, pixels=((2, 4),))[0]
    np.testing.assert_allclose(row.map, one_hot(2, 4, 3) + one_hot(2, 1, 3 * i.mean()), rtol=1e-6)
    assert row.outside == pytest.approx(i.mean() / (1 + i.mean()), rel=1e-6)
    assert row.distance == pytest.approx(3 * row.outside, rel=1e-6)
    error = (i - row.outside * (1 + i)).std(ddof=1) / math.sqrt(6) / (1 + i.mean())
    assert row.outside_error == pytest.approx(error, rel=1e-5)
    assert row.distance_error == pytest.approx(3 * error, rel=1e-5)


def test_what_looks_at_nothing_has_no_distance():
    row = context(lambda p, x, t, label: 0 * x)[0]
    assert not row.map.any()
    assert math.isnan(row.outside) and math.isnan(row.distance)


def test_neither_batch_size_nor_devices_matter_and_it_compiles_once():
    traces = []

    def denoise(params, x, t, label):
        traces.append(x.shape)
        return t * x**2 + label[:, None, None, None] * jnp.roll(x, 1, axis=1)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    place = lambda tree: jax.device_put(tree, spread)  # noqa: E731
    rows = context(denoise, (0.2, 0.6))
    assert len(traces) == 1
    for ours, theirs in zip(rows, context(denoise, (0.2, 0.6), batch_size=8, place=place), strict=True):
        np.testing.assert_allclose(ours.map, theirs.map, rtol=1e-5)
        np.testing.assert_allclose([*ours[3:]], [*theirs[3:]], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": (0.5, 1.0)}, "t="),
        ({"t": ()}, "t="),
        ({"pixels": ()}, "pixels="),
        ({"pixels": ((5, 0),)}, r"pixels=\[\(5, 0\)\]: not in an image of 5x7"),
        ({"pixels": ((0, -1),)}, "pixels="),
        ({"radius": -1}, "radius=-1"),
        ({"images": data(1)}, "at least 2 images, got 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        context(lambda p, x, t, label: x, **options)
