"""A DiT through diffusers: the same answers from an exported folder and from an imported network; and its pipeline."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import maskdiff_jax
from maskdiff_jax.diffusion.denoiser import make_denoiser
from maskdiff_jax.diffusion.inputs import INPUTS
from maskdiff_jax.diffusion.prediction import PREDICTIONS
from maskdiff_jax.diffusion.process import PROCESSES
from maskdiff_jax.models.dit import dit
from maskdiff_jax.samplers import SAMPLERS, SPACINGS, sample
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.types import Cond
from maskdiff_jax.weights.dit import Facts, from_diffusers, to_diffusers
from maskdiff_jax.weights.folders import read_folder
from maskdiff_jax.weights.pipeline import write_pipeline
from maskdiff_jax.weights.schedule import to_scheduler
from tests.models.perturb import random_params

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

CLASSES = 7
OPTIONS = {"patch": 2, "width": 32, "depth": 3, "heads": 4, "learned_variance": True, "level_scale": 1.0}
FACTS = Facts((8, 8, 4), CLASSES, OPTIONS | {"level_features": "diffusers"})
LABELS = np.array([0, 3, CLASSES - 1, -1], np.int32)
LEVELS = np.array([0, 17, 640, 999], np.float32)

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not ours


@pytest.fixture(scope="module")
def params():
    return random_params(dit(*FACTS[:2], **FACTS.options).init, scale=0.1)


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    """A pipeline with a random decoder of 4 channels, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8}
    AutoencoderKL(**sizes).save_pretrained(folder / "a_vae")
    write_pipeline(folder / "out", *to_diffusers(params, FACTS), to_scheduler("ddpm_linear", {}), folder / "a_vae")
    return folder / "out"


@functools.cache
def ours(**changed):
    options = FACTS.options | changed
    return jax.jit(dit(*FACTS[:2], **options).apply)


def images(count=4, channels=4):
    return np.random.default_rng(2).standard_normal((count, 8, 8, channels), np.float32)


def as_image(units):
    """[b, 16, 2, 2, c] -> [b, 8, 8, c]."""
    return np.asarray(units).reshape(-1, 4, 4, 2, 2, 4).swapaxes(2, 3).reshape(-1, 8, 8, 4)


def theirs(network, x, levels, labels):
    """diffusers' answer [b, h, w, ·] to [b, h, w, c]; the null label is its last."""
    labels = torch.from_numpy(np.where(labels < 0, network.config.num_embeds_ada_norm, labels).astype(np.int64))
    with torch.no_grad():
        out = network(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(levels), labels).sample
    return out.permute(0, 2, 3, 1).numpy()


def test_an_exported_network_gives_the_same_answers(params, folder):
    network = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    x = images()
    found = ours()(params, x, LEVELS, Cond(label=LABELS))
    expected = theirs(network, x, LEVELS, LABELS)
    assert expected.std() > 0.1 and np.abs(expected[:2] - expected[2:]).max() > 0.1
    np.testing.assert_allclose(as_image(found.prediction), expected[..., :4], atol=1e-4)
    np.testing.assert_allclose(as_image(found.variance), np.clip((expected[..., 4:] + 1) / 2, 0, 1), atol=1e-4)
    published = ours(level_features="dit")(params, x, LEVELS, Cond(label=LABELS))  # which the export refuses
    assert np.abs(as_image(published.prediction) - expected[..., :4]).max() > 0.01


@pytest.mark.parametrize("out_channels", [None, 8])
def test_a_network_of_diffusers_is_read(tmp_path, out_channels):
    torch.manual_seed(1)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 3, "norm_eps": 1e-6}
    network = DiTTransformer2DModel(**sizes, out_channels=out_channels, sample_size=8, num_embeds_ada_norm=CLASSES)
    first = network.transformer_blocks[0].norm1.emb
    for block in network.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())
    network.eval().save_pretrained(tmp_path)
    config, tensors = read_folder(tmp_path)
    facts, params = from_diffusers(config, tensors)
    again, back = to_diffusers(params, facts)
    assert facts == FACTS._replace(options=FACTS.options | {"learned_variance": out_channels is not None})
    assert {key: config[key] for key in again} == again | {"out_channels": out_channels}
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
    assert sum(leaf.size for leaf in flatten(params).values()) < sum(p.numel() for p in network.parameters())
    x = images()
    found = ours(learned_variance=out_channels is not None)(params, x, LEVELS, Cond(label=LABELS))
    np.testing.assert_allclose(as_image(found.prediction), theirs(network, x, LEVELS, LABELS)[..., :4], atol=1e-4)


def test_untied_embedders_are_refused(tmp_path):
    """As diffusers makes them: its training of this network need not keep them equal."""
    sizes = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    DiTTransformer2DModel(**sizes, num_embeds_ada_norm=CLASSES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="block 1 embeds level and label unlike block 0"):
        from_diffusers(*read_folder(tmp_path))


@pytest.mark.parametrize("process", ["ddpm_linear", "ddpm_cosine"])
def test_the_scheduler_has_our_table(process):
    table = DDIMScheduler.from_config(to_scheduler(process, {}))
    t = (np.arange(1000) + 1) / 1000
    alphas = np.asarray(PROCESSES[process]().alpha(jnp.asarray(t, jnp.float32)), np.float64)
    np.testing.assert_allclose(alphas**2, table.alphas_cumprod.numpy(), rtol=2e-4)
    table.set_timesteps(50)
    np.testing.assert_array_equal(table.timesteps, np.arange(999, -1, -20))


def test_the_pipeline_draws_what_our_ddim_draws(params, folder):
    """Its latents from the same noise in two steps, decoded."""
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    labels, settings = [1, 4], {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    found = pipeline(labels, generator=torch.manual_seed(3), **settings).images

    process = PROCESSES["ddpm_linear"]()
    noise = torch.randn((2, 4, 8, 8), generator=torch.manual_seed(3)).permute(0, 2, 3, 1).numpy()

    @jax.jit
    def draw(params, noise, cond):
        model = dit(*FACTS[:2], **FACTS.options)
        denoiser = make_denoiser(model, params, process, PREDICTIONS["eps"](), INPUTS["discrete"](), None)
        times = SPACINGS["uniform"]()(process, 2)
        keys = jax.random.split(jax.random.key(0), 2)
        return sample(denoiser, SAMPLERS["ddim"](process), process, times, noise, cond, keys)

    latents = draw(params, noise, Cond(label=jnp.array(labels)))
    with torch.no_grad():
        scale = pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(torch.from_numpy(np.array(latents)).permute(0, 3, 1, 2) / scale).sample
    assert found.shape == (2, 3, 8, 8) and found.std() > 0.01
    np.testing.assert_allclose(found, (decoded / 2 + 0.5).clamp(0, 1), atol=1e-3)


@pytest.mark.parametrize("size", ["10GB", "20KB"], ids=["one file", "several files"])
def test_a_pipeline_that_diffusers_saved_is_loaded(params, folder, tmp_path, size):
    """Also where there is a variant in half precision alone."""
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.save_pretrained(tmp_path / "whole", max_shard_size=size)
    whole = maskdiff_jax.load(tmp_path / "whole")
    ours = flatten(params)
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_array_equal(leaf, ours[path], strict=True)
    images = whole.sample(labels=[1, 4], guidance=2.0, steps=2)
    assert images.shape == (2, 8, 8, 3) and images.std() > 1 and whole.experiment.process.steps == 1000

    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", max_shard_size=size, variant="fp16")
    assert len(list((tmp_path / "half" / "transformer").glob("*.fp16*"))) > (size == "20KB")
    half = maskdiff_jax.load(tmp_path / "half")
    for path, leaf in flatten(half.params).items():
        np.testing.assert_array_equal(leaf, ours[path].astype(np.float16).astype(np.float32), strict=True)


def test_without_a_decoder_the_pipeline_is_given_one(params, folder, tmp_path):
    config, tensors = to_diffusers(params, FACTS)
    write_pipeline(tmp_path, config, tensors, to_scheduler("ddpm_linear", {}), labels=["cat", "dog"])
    pipeline = DiTPipeline.from_pretrained(tmp_path, vae=AutoencoderKL.from_pretrained(folder / "vae"))
    assert pipeline.get_label_ids(["dog", "cat"]) == [1, 0]
    assert isinstance(pipeline.scheduler, DDIMScheduler)
