"""From samples to images: what the autoencoder decodes, in any number; and autoencoders of other latents."""

import jax
import numpy as np
import pytest

from maskdiff_jax.data import digits, latents
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.pictures import make_pictures, required
from maskdiff_jax.weights.autoencoder import load_autoencoder
from tests.latent_folders import tiny_vae, write_latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents") / "a")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return str(tiny_vae(tmp_path_factory.mktemp("vae") / "vae", latent_channels=2))


def test_images_are_decoded_and_clipped(folder, vae):
    """67 of them: more than are decoded together on eight devices, and not a multiple of that."""
    z = 9 * np.random.default_rng(0).standard_normal((67, 4, 4, 2), np.float32)
    images = required(make_pictures(latents(folder, vae=vae)))(z)
    autoencoder, params = load_autoencoder(vae)
    decoded = np.asarray(jax.jit(autoencoder.decode)(params, z))
    np.testing.assert_allclose(images, decoded.clip(-1, 1), atol=1e-5)
    assert images.std() > 0.01
    tiles = required(make_pictures(latents(folder, vae=vae, tile=3)))(z[:5])
    assert tiles.shape == (5, 8, 8, 3) and np.abs(tiles - images[:5]).max() > 0


def test_images_stay_what_they_are(folder):
    images = np.zeros((2, 8, 8, 1), np.float32)
    assert required(make_pictures(digits()))(images) is images
    assert make_pictures(latents(folder)) is None


@pytest.mark.parametrize("changed", [{"latent_channels": 4}, {"block_out_channels": [4, 4, 4]}, {"out_channels": 1}])
def test_another_autoencoder_is_refused(folder, tmp_path, changed):
    vae = tiny_vae(tmp_path / "vae", **({"latent_channels": 2} | changed))
    with pytest.raises(ConfigError, match=r"config\.data\.vae: .* these are \[8, 8, 3\] of \[4, 4, 2\]"):
        make_pictures(latents(folder, vae=str(vae)))


def test_no_autoencoder_is_one_line(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.data\.vae: .*config\.json"):
        make_pictures(latents(folder, vae=str(tmp_path)))
    with pytest.raises(ConfigError, match="samples are latents"):
        required(make_pictures(latents(folder)))
