import numpy as np
import pytest

from maskdiff_jax.evaluate.pixels import pixel_frechet, pixel_frechet_reference, pixel_statistics
from tests.evaluate.digits import digits


def test_closed_form_of_a_shift_and_a_contrast():
    """Images a·x + s are ‖mean shift‖² + (1 - a)² tr Σ away from x."""
    images, _ = digits()
    mean, covariance, _ = pixel_statistics(images)
    expected = np.sum(((0.5 * mean + 0.25) - mean) ** 2) + 0.25 * np.trace(covariance)
    np.testing.assert_allclose(pixel_frechet(0.5 * images + 0.25, images), expected, rtol=1e-6)


def test_scale_of_real_digits():
    """The documented scale: random halves of the real digits, pixels in [-1, 1], flattened."""
    images, _ = digits()
    assert pixel_frechet_reference(images) == pytest.approx(0.29, abs=0.05)
    assert pixel_frechet_reference(images) == pixel_frechet_reference(images)
    assert pixel_frechet(images, images) < 1e-9


def test_streaming_in_blocks():
    images, _ = digits()
    whole, streamed = pixel_statistics(images), pixel_statistics(images, block=100)
    np.testing.assert_allclose(streamed.covariance, whole.covariance, atol=1e-12)


def test_bad_images():
    with pytest.raises(ValueError, match=r"float images in .*uint8"):
        pixel_statistics(np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match=r"\[n, h, w, c\], got shape \[8, 8, 1\]"):
        pixel_statistics(np.zeros((8, 8, 1)))
    with pytest.raises(ValueError, match="NaN"):
        pixel_frechet(np.full((4, 2, 2, 1), np.nan), np.zeros((4, 2, 2, 1)))
