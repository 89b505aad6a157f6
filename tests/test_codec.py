"""Codecs: decoding inverts encoding, in the shape that is promised; wavelets are half an orthogonal map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.codec import CODECS, haar

KEYS = jax.random.split(jax.random.key(0), 2)
IMAGES = jax.random.uniform(jax.random.key(1), (2, 4, 6, 3), minval=-1.0)


@pytest.mark.parametrize("name", CODECS)
def test_decoding_inverts_encoding_in_the_promised_shape(name):
    codec = CODECS[name]()
    z = codec.encode(None, IMAGES, KEYS)
    assert z.shape[1:] == codec.shape(IMAGES.shape[1:])
    np.testing.assert_allclose(codec.decode(None, z), IMAGES, atol=1e-6)
    np.testing.assert_allclose(codec.encode(None, codec.decode(None, z), KEYS), z, atol=1e-6)


def test_a_constant_image_is_approximation_alone():
    z = haar().encode(None, jnp.full((2, 4, 6, 3), -0.7), KEYS)
    np.testing.assert_allclose(z[..., :3], -0.7, rtol=1e-6)
    np.testing.assert_array_equal(z[..., 3:], 0)


@pytest.mark.parametrize(
    ("corners", "band"),
    [([[1, 1], [1, 1]], 0), ([[1, 1], [-1, -1]], 1), ([[1, -1], [1, -1]], 2), ([[1, -1], [-1, 1]], 3)],
    ids=["approximation", "rows", "columns", "diagonal"],
)
def test_each_band_answers_to_its_own_pattern_in_its_own_place(corners, band):
    image = np.zeros((1, 4, 6, 2), np.float32)
    image[0, 2:, 2:4, 1] = corners
    z = np.array(haar().encode(None, jnp.asarray(image), KEYS))
    assert z[0, 1, 1, 2 * band + 1] == 1  # channels of the first band, then of the second, ...
    assert np.count_nonzero(z) == 1


def test_coefficients_of_images_fill_the_range_of_images_and_never_leave_it():
    """So clipping to [-1, 1] loses no image."""
    corners = jnp.stack(jnp.meshgrid(*4 * [jnp.array([-1.0, 1.0])]), axis=-1).reshape(-1, 2, 2, 1)
    z = haar().encode(None, corners, KEYS).reshape(-1, 4)
    np.testing.assert_array_equal(jnp.max(z, axis=0), 1)
    np.testing.assert_array_equal(jnp.min(z, axis=0), -1)


def test_haar_is_half_an_orthogonal_map():
    jacobian = jax.jacobian(lambda x: haar().encode(None, x[None], KEYS)[0])(IMAGES[0, :2, :4]).reshape(24, 24)
    np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(24) / 4, atol=1e-6)


@pytest.mark.parametrize("sides", [(3, 4), (4, 3)])
def test_odd_sides_are_refused(sides):
    message = rf"codec 'haar' .* an image of {sides[0]}×{sides[1]} has an odd one"
    with pytest.raises(ValueError, match=message):
        haar().shape((*sides, 1))
    with pytest.raises(ValueError, match=message):
        haar().encode(None, jnp.zeros((2, *sides, 1)), KEYS)


def test_channels_that_are_not_four_bands_are_refused():
    with pytest.raises(ValueError, match="6 channels do not divide by 4"):
        haar().decode(None, jnp.zeros((2, 2, 2, 6)))
