"""Inception features: what torch-fidelity computes, and one line for whatever is wrong with weights or images."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from maskdiff_jax.evaluate.features import FEATURES, Given
from maskdiff_jax.evaluate.features.inception import prepared
from maskdiff_jax.evaluate.features.torch_weights import to_flax
from tests.evaluate.inception_inputs import images, state_dict
from tests.evaluate.recorded_answers import INCEPTION_IMAGES, answers


@pytest.fixture(scope="module")
def weights():
    """A file of random weights, of the size of the real ones: not left behind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.npz"
        np.savez(path, **to_flax(state_dict()))
        yield str(path)


def test_recorded_features(weights):
    """Same random weights, same random images as torch-fidelity had: same features to 1e-4 of their scale."""
    features = FEATURES["inception"](weights, batch=1)(Given(INCEPTION_IMAGES[1:]))
    found, expected = features.extract(images(*INCEPTION_IMAGES)), answers("inception")
    assert found.keys() == expected.keys()
    assert found["pool"].shape == (2, features.dims)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=1e-4 * expected[name].std(), rtol=1e-4, err_msg=name)
    assert features.about["weights"] == weights and len(features.about["sha256"]) == 64


def test_bad_weights_and_images(weights, tmp_path):
    inception = FEATURES["inception"]
    with pytest.raises(ValueError, match=r"have the SHA-256 .*, not 6726825d"):
        inception(weights, sha256="6726825d")
    with pytest.raises(ValueError, match="convention='pil': choose from tf, torch"):
        inception(weights, convention="pil")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        inception(weights, batch=0)
    with pytest.raises(ValueError, match="1 or 3 channels, not of 4"):
        inception(weights)(Given((8, 8, 4)))
    other = tmp_path / "other.npz"
    np.savez(other, **{"fc/kernel": np.zeros(3)})
    with pytest.raises(ValueError, match=r"weights='.*other\.npz' lack Conv2d_1a_3x3/bn/bias, .* and 465 more"):
        inception(str(other))


def test_a_missing_file_says_where_it_comes_from():
    """The name of the release, by its address, and the command that converts it to the very file."""
    with pytest.raises(ValueError) as error:
        FEATURES["inception"]("here/inception.npz")
    message = str(error.value)
    name = "pt_inception-2015-12-05-6726825d.pth"
    assert "\n" not in message and message.startswith("weights='here/inception.npz' not found: download https://")
    assert f"/{name} " in message
    assert f"python -m maskdiff_jax.evaluate.features.torch_weights {name} here/inception.npz" in message


@pytest.mark.parametrize(("convention", "white"), [("tf", 127 / 128), ("torch", 1)])
def test_conventions_of_the_input(convention, white):
    """Flat images stay flat; black is -1, white 127/128 or 1; grey images are three equal channels."""
    flat = np.array([0, 255], np.uint8)[:, None, None, None] * np.ones((1, 8, 12, 3), np.uint8)
    np.testing.assert_allclose(prepared(flat, convention)[:, 150, 7], np.array([[-1.0] * 3, [white] * 3]), atol=1e-6)
    grey = images(1, 8, 12, 1)
    three = prepared(np.repeat(grey, 3, axis=3), convention)
    np.testing.assert_allclose(prepared(grey, convention), three, atol=1e-6)


def test_the_conventions_differ():
    """On small images by far more than rounding: figures of the two do not compare."""
    few = images(4, 8, 8, 3)
    assert np.mean(np.abs(np.asarray(prepared(few, "tf")) - np.asarray(prepared(few, "torch")))) > 0.02
