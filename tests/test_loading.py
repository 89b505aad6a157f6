"""A trained network in one call, and as the start of a run: of a run, of its exports and of others alike."""

import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import maskdiff_jax
from maskdiff_jax.build import mesh_for
from maskdiff_jax.export import FORMATS, Job
from maskdiff_jax.handover import inherit, unlike
from maskdiff_jax.models.dit import dit
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.run import first_state
from maskdiff_jax.sources import start
from maskdiff_jax.stages import Stage
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.train.ema import get_ema
from maskdiff_jax.weights.card import Weights
from maskdiff_jax.weights.dit import Facts, to_diffusers, to_published
from maskdiff_jax.weights.folders import read_folder, write_folder, write_tensors
from maskdiff_jax.weights.pipeline import write_pipeline
from maskdiff_jax.weights.schedule import to_scheduler
from tests.cli import here
from tests.latent_folders import tiny_vae
from tests.models.perturb import random_params
from tests.trained_run import STEP, save_run, small
from tests.weights.torch_pickles import write_archive

pytestmark = pytest.mark.usefixtures("compiled_once", "always_one_device")


@pytest.fixture(scope="module")
def experiment(always_one_device):
    return small()


def stage_of(experiment, **changes):
    """A run of it, under another config."""
    config = ConfigDict(experiment.config.to_dict() | changes)
    return Stage("", 0, experiment._replace(config=config), 0, 1, 0.0, 0, 0.0)


@pytest.fixture(scope="module")
def average(experiment):
    return random_params(experiment.model.init)


@pytest.fixture(scope="module")
def places(experiment, average, tmp_path_factory):
    """The same parameters in every place that holds them."""
    run = save_run(tmp_path_factory.mktemp("loading") / "run", experiment, average)
    folders = {name: tmp_path_factory.mktemp("exported") / name for name in FORMATS}
    weights = Weights(experiment.image_shape, experiment.cond, STEP, 0.999, 0)
    for name, folder in folders.items():
        FORMATS[name].write(Job(folder, experiment, average, weights, None))
    return {
        "run": run,
        "export": folders["safetensors"],
        "file": folders["safetensors"] / "model.safetensors",
        "pipeline": folders["diffusers"],
        "network": folders["diffusers"] / "transformer",
    }


@pytest.fixture(scope="module")
def loaded(places):
    return {name: maskdiff_jax.load(places[name]) for name in ("run", "export", "pipeline")}


def assert_identical(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True, err_msg=name)


def test_a_run_and_its_exports_draw_the_same_images(loaded):
    images = {name: model.sample(3, labels=[3, 7], steps=2) for name, model in loaded.items()}
    for name in ("export", "pipeline"):
        np.testing.assert_array_equal(images[name], images["run"])
    assert images["run"].shape == (3, 8, 8, 1) and images["run"].dtype == np.uint8 and images["run"].std() > 0
    assert {name: model.step for name, model in loaded.items()} == {"run": STEP, "export": STEP, "pipeline": None}


def test_an_image_is_that_of_the_command_line(loaded, places, tmp_path):
    asked = ("--num=3", "--labels=3,7", "--steps=2")
    assert here("--mode=sample", f"--workdir={places['run']}", *asked, f"--out={tmp_path / 'a'}") == 0
    with np.load(tmp_path / "a.npz") as file:
        difference = file["images"].astype(int) - loaded["run"].sample(3, labels=[3, 7], steps=2)
    assert np.abs(difference).max() <= 1  # another size of batch rounds differently


def test_key_and_settings_are_heeded_and_compiled_once(loaded):
    model = loaded["export"]
    first = model.sample(3, key=1, steps=2)
    programs = model._generator.cache_info().misses
    np.testing.assert_array_equal(first, model.sample(3, key=1, steps=2))
    assert (first != model.sample(3, key=2, steps=2)).any()
    assert (first != model.sample(3, key=jax.random.key(1), steps=2)).any()
    assert model._generator.cache_info().misses == programs
    assert (first != model.sample(3, key=1, steps=1)).any()


@pytest.mark.parametrize(
    "arguments, said",
    [({"labels": [10]}, "'10' is not a class"), ({"controls": {"flip": 1.0}}, "'flip' is no condition")],
)
def test_what_the_network_does_not_know_is_named(loaded, arguments, said):
    with pytest.raises(ConfigError, match=said):
        loaded["export"].sample(**arguments)


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_run_starts_from_the_parameters_of_any_place(places, experiment, average, weights):
    """A file has one set of them, the average; of a run, the config says which."""
    for name, place in places.items():
        found = start(place, weights)
        shifted = jax.tree.map(lambda leaf: leaf + 1, average) if (name, weights) == ("run", "raw") else average
        assert_identical(found.params, shifted)
        assert found.step == (None if name in ("pipeline", "network") else STEP) == found.cost["steps"]
        assert found.cost["flops"] is None and found.cost["images"] is None


def test_what_parameters_had_meant_otherwise_is_said(places, experiment):
    """They fit all the same. A network alone is taken to be of the paper's table."""
    config = ConfigDict(experiment.config.to_dict())
    for name, place in places.items():
        lines = unlike(start(place, "ema"), config)
        assert lines == (["process.steps: 1000 there, 100 now"] if name == "network" else []), name
    config.prediction, config.model.level_scale = {"name": "v"}, 1000.0
    assert unlike(start(places["pipeline"], "ema"), config) == [
        'prediction.name: "eps" there, "v" now',
        "model.level_scale: 1.0 there, 1000.0 now",
    ]


def test_training_starts_from_a_pipeline(places, experiment, average, tmp_path, capsys):
    """At step 0 its parameters are the pipeline's. What these had cost is not known, and what they meant is said."""
    changes = {"init_from": str(places["pipeline"]), "process": {"name": "ddpm_cosine", "steps": 100}}
    stage = stage_of(experiment, **changes)
    config = stage.experiment.config
    state = first_state(stage, inherit(config, stage), tmp_path, mesh_for(config))
    assert state.step == 0
    assert_identical(jax.device_get(state.params), average)
    assert_identical(jax.device_get(get_ema(state.opt_state, config.ema[0])), average)
    said = capsys.readouterr().out
    assert f"from {places['pipeline']}:\n" in said and "otherwise than there: " in said
    assert 'process.name: "ddpm_linear" there, "ddpm_cosine" now' in said
    told = json.loads((tmp_path / "transfer.json").read_text())
    assert [told[name] for name in ("steps", "images", "flops", "seconds")] == [None] * 4
    assert told["leaves"]["kept"].keys() == flatten(average).keys()

    heir = shutil.copytree(places["run"], tmp_path / "heir")  # whose own cost is known, and steps
    shutil.copy(tmp_path / "transfer.json", heir)
    assert start(heir, "raw").cost == {"steps": None, "images": None, "flops": None, "seconds": None}


@pytest.fixture(scope="module")
def latent_pipeline(tmp_path_factory):
    """Of latents 4×4×4 of pictures 8×8×3, with its decoder."""
    folder = tmp_path_factory.mktemp("latents")
    options = {"patch": 2, "width": 16, "depth": 2, "heads": 2, "level_scale": 1.0, "level_features": "diffusers"}
    facts = Facts((4, 4, 4), 3, options)
    params = random_params(dit(*facts[:2], **facts.options).init)
    vae = tiny_vae(folder / "a_vae")
    write_pipeline(folder / "out", *to_diffusers(params, facts), to_scheduler("ddpm_linear", {}), vae)
    return folder / "out"


def test_latents_are_decoded_by_the_autoencoder_of_the_folder(latent_pipeline):
    """Or by one that is named, where the network stands alone; else they are refused."""
    model = maskdiff_jax.load(latent_pipeline)
    images = model.sample(labels=[2, 0], guidance=2.0, steps=1)
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8 and images.std() > 1
    codec = model.experiment.dataset.latents.codec  # the decoder's scaling is 0.5 and its shift 0.1
    np.testing.assert_allclose(codec.decode(None, jax.numpy.array([1.0, -3.0])), [2.1, -5.9], rtol=1e-6)
    network = maskdiff_jax.load(latent_pipeline / "transformer", vae=latent_pipeline / "vae")
    assert network.experiment.config.data == model.experiment.config.data
    assert_identical(network.params, model.params)
    with pytest.raises(ConfigError, match="samples are latents; name the folder of the autoencoder that decodes them"):
        maskdiff_jax.load(latent_pipeline / "transformer").sample(labels=[2, 0])
    with pytest.raises(ConfigError, match=r"checkpoint='best': .* is no run"):
        maskdiff_jax.load(latent_pipeline, checkpoint="best")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_checkpoint_of_the_authors_is_read(tmp_path, suffix):
    """In safetensors, and as they publish it, which is a pickle: without running it."""
    options = {"preset": "S", "patch": 4, "depth": 1, "learned_variance": True, "level_scale": 1.0}
    facts = Facts((8, 8, 4), 3, options)
    params = random_params(dit(*facts[:2], **facts.options).init)
    write = write_archive if suffix == ".pt" else write_tensors
    write(tmp_path / f"dit{suffix}", to_published(params, facts))
    model = maskdiff_jax.load(tmp_path / f"dit{suffix}")
    assert_identical(model.params, params)
    assert model.experiment.config.model.to_dict() == {
        **{"name": "dit", "patch": 4, "width": 384, "depth": 1, "heads": 6},
        **{"learned_variance": True, "level_scale": 1.0},
    }
    assert (model.experiment.process.steps, model.experiment.cond.classes) == (1000, 3)


def edit(name, **changes):
    def change(place):
        path = place / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def untie(place):
    config, tensors = read_folder(place / "transformer")
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"
    write_folder(place / "transformer", config, tensors | {name: tensors[name] + 1}, "diffusion_pytorch_model")


def pickled(place):
    path = place / "transformer" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


TABLE = "scheduler/scheduler_config.json"
BROKEN = {
    "another pipeline": (edit("model_index.json", _class_name="FluxPipeline"), "holds a FluxPipeline, and of diffus"),
    "another scheduler": (edit(TABLE, _class_name="PNDMScheduler"), f"{TABLE}: the scheduler is a PNDMScheduler: choo"),
    "another network": (edit("transformer/config.json", _class_name="A"), "transformer: config.json is of a A, not of"),
    "untied embedders": (untie, "transformer: block 1 embeds level and label unlike block 0"),
    "a pickle": (
        pickled,
        r"\.bin, a pickle, .*: python -m maskdiff_jax\.weights\.convert .*\.safetensors",
    ),
    "another decoder": (edit("vae/config.json", latent_channels=3), "config.data.vae: .*vae makes images"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_right_is_one_line(latent_pipeline, tmp_path, case):
    change, said = BROKEN[case]
    folder = shutil.copytree(latent_pipeline, tmp_path / "pipeline")
    change(folder)
    with pytest.raises(ConfigError, match=said) as caught:
        maskdiff_jax.load(folder)
    assert "\n" not in str(caught.value)


def test_other_places_are_refused(tmp_path, experiment):
    with pytest.raises(ConfigError, match=r"holds no network: it is neither .*DiTPipeline, .* nor the workdir"):
        maskdiff_jax.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        maskdiff_jax.load(tmp_path)
    write_tensors(tmp_path / "other.safetensors", {"x": np.zeros(2, np.float32)})
    with pytest.raises(ConfigError, match=r"other\.safetensors: the tensors of the published DiT lack x_embedder"):
        maskdiff_jax.load(tmp_path / "other.safetensors")
    assert not hasattr(maskdiff_jax, "lode")


def test_parameters_that_do_not_fit_are_refused(latent_pipeline, experiment):
    stage = stage_of(experiment, init_from=str(latent_pipeline))
    with pytest.raises(ConfigError, match=r"config\.init_from='.*': config\.handover: 2 of 31 parameters do not match"):
        inherit(stage.experiment.config, stage)
