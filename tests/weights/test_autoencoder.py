"""Folders of the autoencoder of latent diffusion: names, bits, old names, and what is refused."""

import json

import jax
import numpy as np
import pytest

from maskdiff_jax.models.autoencoder import autoencoder_kl
from maskdiff_jax.weights.autoencoder import load_autoencoder, save_autoencoder
from maskdiff_jax.weights.folders import read_folder, write_folder
from tests.models.perturb import random_params

STEM = "diffusion_pytorch_model"
TINY = {"block_out_channels": [4, 8], "norm_num_groups": 2, "scaling_factor": 0.5, "force_upcast": False}
# Of a network of two stages of one block, as published folders name and turn them: (path here, name, shape).
PUBLISHED = [
    ("encoder/conv_in/kernel", "encoder.conv_in.weight", (4, 3, 3, 3)),
    ("encoder/down_blocks_0/resnets_0/norm1/scale", "encoder.down_blocks.0.resnets.0.norm1.weight", (4,)),
    ("encoder/down_blocks_0/downsamplers_0/conv/bias", "encoder.down_blocks.0.downsamplers.0.conv.bias", (4,)),
    (
        "encoder/down_blocks_1/resnets_0/conv_shortcut/kernel",
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        (8, 4, 1, 1),
    ),
    ("encoder/mid_block/attentions_0/to_q/kernel", "encoder.mid_block.attentions.0.to_q.weight", (8, 8)),
    ("decoder/mid_block/attentions_0/to_out_0/kernel", "decoder.mid_block.attentions.0.to_out.0.weight", (8, 8)),
    ("decoder/mid_block/attentions_0/group_norm/bias", "decoder.mid_block.attentions.0.group_norm.bias", (8,)),
    ("decoder/up_blocks_0/upsamplers_0/conv/kernel", "decoder.up_blocks.0.upsamplers.0.conv.weight", (8, 8, 3, 3)),
    ("decoder/up_blocks_1/resnets_1/conv2/kernel", "decoder.up_blocks.1.resnets.1.conv2.weight", (4, 4, 3, 3)),
    ("decoder/conv_norm_out/scale", "decoder.conv_norm_out.weight", (4,)),
    ("quant_conv/kernel", "quant_conv.weight", (8, 8, 1, 1)),
    ("post_quant_conv/bias", "post_quant_conv.bias", (4,)),
]
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, expected)


@pytest.fixture(scope="module")
def autoencoder():
    return autoencoder_kl(TINY)


@pytest.fixture(scope="module")
def params(autoencoder):
    return random_params(autoencoder.init)


@pytest.fixture
def folder(tmp_path, autoencoder, params):
    save_autoencoder(tmp_path / "vae", autoencoder, params)
    return tmp_path / "vae"


def old_names(tensors, kernel=lambda array: array):
    """The attention as the first folders have it; ``kernel`` turns its kernels."""
    for new, old in OLD.items():
        for part, change in (("weight", kernel), ("bias", np.asarray)):
            end = f".attentions.0.{new}.{part}"
            for name in [name for name in tensors if name.endswith(end)]:
                tensors = tensors | {f"{name.removesuffix(end)}.attentions.0.{old}.{part}": change(tensors[name])}
                del tensors[name]
    return tensors


def test_names_and_axes_are_the_published_ones(folder, params):
    config, tensors = read_folder(folder)
    assert config["_class_name"] == "AutoencoderKL" and config["scaling_factor"] == 0.5
    assert len(tensors) == len(jax.tree.leaves(params))
    for path, name, shape in PUBLISHED:
        ours = params
        for key in path.split("/"):
            ours = ours[key]
        assert tensors[name].shape == shape
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[ours.ndim]
        np.testing.assert_array_equal(tensors[name], ours.transpose(axes), strict=True)


def test_what_is_loaded_is_what_was_saved_and_saving_it_gives_the_same_bytes(folder, tmp_path, autoencoder, params):
    loaded, found = load_autoencoder(folder)
    equal(found, params)
    assert loaded.config == autoencoder.config and loaded.scaling == 0.5
    save_autoencoder(str(tmp_path / "again"), loaded, found)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", f"{STEM}.safetensors"]
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("axes", [2, 4])
def test_old_names_of_the_attention(folder, tmp_path, params, axes):
    config, tensors = read_folder(folder)
    old = old_names(tensors, lambda array: array[:, :, None, None] if axes == 4 else array)
    assert len(old.keys() - tensors.keys()) == 2 * 2 * len(OLD)
    write_folder(tmp_path / "old", config, old, STEM)
    loaded, found = load_autoencoder(tmp_path / "old")
    equal(found, params)
    save_autoencoder(tmp_path / "new", loaded, found)
    assert (tmp_path / "new" / f"{STEM}.safetensors").read_bytes() == (folder / f"{STEM}.safetensors").read_bytes()


def test_halves_become_float32(folder, params):
    config, tensors = read_folder(folder)
    write_folder(folder, config, {name: array.astype(np.float16) for name, array in tensors.items()}, STEM)
    _, found = load_autoencoder(folder, "bfloat16")
    equal(found, jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params))


def changed(folder, change):
    """The folder again, after ``change(config, tensors)``."""
    config, tensors = read_folder(folder)
    change(config, tensors)
    write_folder(folder, config, tensors, STEM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, tensors: config.update(act_fn="mish"), r"config\.json: act_fn='mish': choose 'silu'$"),
        (lambda config, tensors: tensors.pop("quant_conv.bias"), r"^the weights in .*vae lack quant_conv\.bias$"),
        (
            lambda config, tensors: tensors.update(strange=np.zeros(1, np.float32)),
            r"^the weights in .*vae have strange, which the network does not have$",
        ),
        (
            lambda config, tensors: config.update(latent_channels=3),
            r"^the weights in .*vae: \S+ has shape \[[\d, ]+\], not \[[\d, ]+\]$",
        ),
        (
            lambda config, tensors: tensors.update({"encoder.mid_block.attentions.0.key.bias": np.zeros(8)}),
            r"^the weights in .*vae have an old name \(query, .*\) of the attention beside its new one$",
        ),
    ],
    ids=["config", "missing", "strange", "shape", "both names"],
)
def test_folders_that_are_not_of_this_network(folder, change, message):
    changed(folder, change)
    with pytest.raises(ValueError, match=message):
        load_autoencoder(folder)


def test_folders_without_safetensors(folder):
    (folder / f"{STEM}.safetensors").rename(folder / f"{STEM}.bin")
    with pytest.raises(ValueError, match=rf"holds {STEM}\.bin, a pickle, which is not read"):
        load_autoencoder(folder)
    (folder / f"{STEM}.bin").unlink()
    with pytest.raises(ValueError, match=rf"holds no {STEM}\.safetensors or model\.safetensors"):
        load_autoencoder(folder)
    (folder / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds list, not an object"):
        load_autoencoder(folder)


def test_parameters_of_another_network_are_not_written(tmp_path, autoencoder, params):
    with pytest.raises(ValueError, match=r"^params lack quant_conv/bias, quant_conv/kernel$"):
        save_autoencoder(tmp_path, autoencoder, {key: params[key] for key in params if key != "quant_conv"})
    assert not list(tmp_path.iterdir())
