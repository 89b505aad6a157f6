"""From images to a pipeline of diffusers: encode, train on the latents, sample, decode, export, and load it there."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maskdiff_jax import inference
from maskdiff_jax.data import digits, latents
from maskdiff_jax.data.pixels import to_float
from maskdiff_jax.stages import build_stages
from maskdiff_jax.types import Cond
from tests.cli import TINY, here

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DiTPipeline

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("compiled_once")]

CONFIG = (
    *(option for option in TINY if "model.patch" not in option),
    "--config.data.name=latents",
    "--config.encode.data.tint=True",
    "--config.encode.data.limit=64",
    "--config.encode.data.heldout=32",
    "--config.steps=3",
    "--config.batch=8",
    "--config.model.patch=2",
    "--config.model.level_scale=1.0",
    "--config.model.level_features=diffusers",
    "--config.process.name=ddpm_linear",
    "--config.prediction.name=eps",
    "--config.inputs.name=discrete",
    "--config.times.name=discrete_uniform",
    "--config.times.steps=1000",
    "--config.weighting.space=eps",
    "--config.evaluate.space=eps",
    "--config.evaluate.batch=8",
    "--config.evaluate.judge.name=none",
    "--config.sample.sampler.name=ddim",
    "--config.sample.clip=False",
)


def theirs(array):
    """[b, h, w, c] -> their [b, c, h, w]."""
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)


def ours(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A random autoencoder of 4 channels that halves sides, made and saved by diffusers."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4).save_pretrained(folder)
    return folder


def test_from_images_to_a_pipeline_of_diffusers(vae, tmp_path):
    folder, run, out = tmp_path / "latents", tmp_path / "run", tmp_path / "pipeline"
    where = (f"--config.data.path={folder}", f"--config.encode.vae={vae}")
    assert here("--mode=encode", *CONFIG, *where) == 0
    data = latents(folder)
    network = AutoencoderKL.from_pretrained(vae).eval()
    pixels = to_float(digits(tint=True, limit=64, heldout=32).train.fetch(np.arange(16))["image"])
    with torch.no_grad():
        posterior = network.encode(theirs(pixels)).latent_dist
    moments = np.concatenate([ours(posterior.mean), ours(posterior.std)], axis=-1)
    np.testing.assert_allclose(data.train.fetch(np.arange(16))["image"], moments, rtol=1e-3, atol=1e-3)

    assert here(*CONFIG, *where, f"--workdir={run}") == 0
    assert here("--mode=sample", f"--workdir={run}", "--num=4", f"--out={tmp_path / 'a.png'}") == 0
    assert (tmp_path / "a.png").exists()
    assert here("--mode=export", f"--workdir={run}", "--format=diffusers", f"--vae={vae}", f"--out={out}") == 0

    stage, trained = inference.load(build_stages(inference.read_config(run)), run)
    pipeline = DiTPipeline.from_pretrained(out)
    z = np.random.default_rng(0).standard_normal((4, 4, 4, 4), np.float32)
    levels, labels = np.array([0, 9, 500, 999], np.float32), np.array([0, 3, 9, 5], np.int32)
    apply = jax.jit(stage.experiment.model.apply)
    answer = apply(trained.params, jnp.asarray(z), levels, Cond(label=jnp.asarray(labels))).prediction
    with torch.no_grad():
        found = pipeline.transformer(theirs(z), torch.from_numpy(levels), torch.from_numpy(labels.astype(np.int64)))
        picture = pipeline.vae.decode(theirs(z) / pipeline.vae.config.scaling_factor).sample
    expected = np.asarray(answer).reshape(4, 2, 2, 2, 2, 4).swapaxes(2, 3).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(ours(found.sample)[..., :4], expected, atol=1e-4)
    decoded = stage.experiment.codec.decode(None, jnp.asarray(z))
    assert stage.experiment.pictures is not None
    np.testing.assert_allclose(stage.experiment.pictures(np.asarray(decoded)), ours(picture).clip(-1, 1), atol=1e-4)
