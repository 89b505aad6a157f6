"""The autoencoder of latent diffusion against diffusers' ``AutoencoderKL``: small ones, through folders, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maskdiff_jax.models import autoencoder as ours
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.weights.autoencoder import load_autoencoder, rename, save_autoencoder
from maskdiff_jax.weights.folders import read_folder, write_folder
from maskdiff_jax.weights.torch_names import torch_name

diffusers = pytest.importorskip("diffusers")

STAGES = 3
SMALL = {
    "block_out_channels": [8, 16, 24],
    "down_block_types": ["DownEncoderBlock2D"] * STAGES,
    "up_block_types": ["UpDecoderBlock2D"] * STAGES,
    "norm_num_groups": 4,
    "layers_per_block": 2,
}
NO_CONVOLUTIONS = {"use_quant_conv": False, "use_post_quant_conv": False}
CONFIGS = {
    "sd": SMALL,
    "sdxl": SMALL | {"scaling_factor": 0.13025, "sample_size": 64, "layers_per_block": 1},
    "sixteen": SMALL | NO_CONVOLUTIONS | {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    "no_attention": SMALL | {"block_out_channels": [8, 8, 16], "mid_block_add_attention": False, "layers_per_block": 1},
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory):
    """Written by diffusers: random weights, with norms and biases away from 1 and 0."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(**CONFIGS[request.param])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp(request.param)
    network.save_pretrained(path)
    return path


def to_torch(x):
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())


def from_torch(x):
    return x.numpy().transpose(0, 2, 3, 1)


def theirs(folder, latents):
    """Mean and standard deviation of `IMAGES`, and the image of ``latents``."""
    network = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        posterior = network.encode(to_torch(IMAGES)).latent_dist
        return [from_torch(x) for x in (posterior.mean, posterior.std, network.decode(to_torch(latents)).sample)]


def latents_of(network):
    _, h, w, _ = IMAGES.shape
    shape = (2, h // network.factor, w // network.factor, network.channels)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def test_moments_and_images(folder):
    network, params = load_autoencoder(folder)
    latents = latents_of(network)
    mean, std = jax.jit(network.encode)(params, jnp.asarray(IMAGES))
    found = [mean, std, jax.jit(network.decode)(params, jnp.asarray(latents))]
    for array, expected in zip(found, theirs(folder, latents), strict=True):
        assert expected.std() > 0.05
        np.testing.assert_allclose(array, expected, atol=1e-4 * expected.std(), rtol=1e-4)


def test_a_folder_of_ours_is_read_back_there(folder, tmp_path):
    network, params = load_autoencoder(folder)
    save_autoencoder(tmp_path / "ours", network, params)
    latents = latents_of(network)
    for array, expected in zip(theirs(tmp_path / "ours", latents), theirs(folder, latents), strict=True):
        np.testing.assert_array_equal(array, expected)
    config, expected = (diffusers.AutoencoderKL.load_config(path) for path in (tmp_path / "ours", folder))
    assert config | {"_diffusers_version": None} == expected | {"_diffusers_version": None}


@pytest.mark.parametrize("folder", ["sdxl", "sixteen"], indirect=True)
def test_scale_and_shift(folder):
    """As the pipelines there go between latents and what the diffusion sees."""
    network, params = load_autoencoder(folder)
    config = diffusers.AutoencoderKL.from_pretrained(folder).config
    shift = config.shift_factor or 0.0
    codec = ours.codec(network, sample=False)
    mean, _, _ = theirs(folder, latents_of(network))
    keys = jax.random.split(jax.random.key(0), 2)
    z = jax.jit(codec.encode)(params, jnp.asarray(IMAGES), keys)
    np.testing.assert_allclose(z, (mean - shift) * config.scaling_factor, atol=1e-4, rtol=1e-4)
    image = jax.jit(codec.decode)(params, z)
    _, _, expected = theirs(folder, np.asarray(z) / config.scaling_factor + shift)
    np.testing.assert_allclose(image, expected, atol=1e-4 * expected.std(), rtol=1e-4)


@pytest.mark.parametrize("folder", ["sd"], indirect=True)
def test_old_folders(folder, tmp_path):
    """As diffusers itself renames them."""
    network, params = load_autoencoder(folder)
    config, tensors = read_folder(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): array for key, array in tensors.items()}
    write_folder(tmp_path, config, tensors, "diffusion_pytorch_model")
    latents = latents_of(network)
    _, found = load_autoencoder(tmp_path)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, params)
    for array, expected in zip(theirs(tmp_path, latents), theirs(folder, latents), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_the_published_size():
    """83,653,863 parameters of Stable Diffusion's, name for name and shape for shape."""
    config = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        state = diffusers.AutoencoderKL(**config, **blocks).state_dict()
    shapes = flatten(jax.eval_shape(ours.autoencoder_kl(config).init, jax.random.key(0)))
    assert sum(tensor.numel() for tensor in state.values()) == 83_653_863
    found = {torch_name(path, rename): leaf.size for path, leaf in shapes.items()}
    assert found == {name: tensor.numel() for name, tensor in state.items()}
