"""The weights of a run as files: what they hold, what the card promises of them, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from maskdiff_jax.export import FORMATS, Job, export, to_pipeline
from maskdiff_jax.inference import read_config
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.sources import exported as exports
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.train.files import plain
from maskdiff_jax.weights.card import Weights
from maskdiff_jax.weights.files import read_weights
from maskdiff_jax.weights.folders import read_metadata, write_tensors
from tests.models.perturb import random_params
from tests.trained_run import STEP, save_run, small

pytestmark = pytest.mark.usefixtures("compiled_once", "always_one_device")


@pytest.fixture(scope="module")
def experiment(always_one_device):
    return small()


@pytest.fixture(scope="module")
def average(experiment):
    return random_params(experiment.model.init)


@pytest.fixture(scope="module")
def workdir(experiment, average, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), experiment, average)


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """format -> folder."""
    folders = {name: tmp_path_factory.mktemp("exported") / name for name in FORMATS}
    for name, folder in folders.items():
        assert export(read_config(workdir), workdir, out=folder, format=name) == folder
    return folders


def snippets(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def assert_identical(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True, err_msg=name)


def test_the_file_holds_the_average_and_the_config(exported, workdir, average):
    path = exported["safetensors"] / "model.safetensors"
    config, params, step = exports.read(path)
    assert_identical(params, average)
    described = {"name": "maskdiff_jax.data.described:shape_only", "height": 8, "width": 8}
    described |= {"channels": 1, "classes": 10}
    assert plain(config) == plain(read_config(workdir).to_dict()) | {"data": described} and step == STEP
    arrays, _ = read_weights(path)  # by the paths that other files of this library have
    assert arrays.keys() == flatten(average).keys()
    assert read_metadata(path)["step"] == str(STEP)
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.md", "model.safetensors"]


def test_the_card_draws_samples(exported, monkeypatch):
    """Its own words, run beside the file."""
    (text,) = snippets(exported["safetensors"])
    monkeypatch.chdir(exported["safetensors"])
    names = {}
    exec(text, names)
    assert names["images"].shape == (4, 8, 8, 1) and names["images"].dtype == np.uint8
    assert names["images"].std() > 1


def test_the_card_of_a_pipeline_reads_it(exported, average, monkeypatch):
    _, text = snippets(exported["diffusers"])
    monkeypatch.chdir(exported["diffusers"])
    names = {}
    exec(text, names)
    assert_identical(names["model"].params, average)
    assert names["images"].shape == (1, 8, 8, 1)


def test_the_pipeline_has_the_table_and_the_names(exported):
    schedule, index = (
        json.loads((exported["diffusers"] / name).read_text())
        for name in ("scheduler/scheduler_config.json", "model_index.json")
    )
    table = {"num_train_timesteps": 100, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    assert table.items() <= schedule.items()
    assert (schedule["prediction_type"], schedule["clip_sample"]) == ("epsilon", True)
    assert index["id2label"] == {str(digit): str(digit) for digit in range(10)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_card_has_the_metrics_of_the_run(exported, name):
    text = (exported[name] / "README.md").read_text()
    assert "| class accuracy of the samples, as a judge sees them | 0.998 |" in text
    assert f"| steps | {STEP} |" in text and 'library_name: "' in text


def test_a_report_that_cannot_be_read_is_left_out(workdir, tmp_path, capsys):
    """And without a name the folder is one of the run."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    (copy / "report.json").write_text("{}")
    folder = export(read_config(copy), copy)
    assert folder == copy / "exported" / "safetensors"
    assert "report.json is left out of the card: not a report" in capsys.readouterr().out
    assert "## Metrics" not in (folder / "README.md").read_text()


def test_bad_requests_write_nothing(workdir, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for options, text in (
        ({"out": tmp_path / "full"}, "full exists and is not an empty folder"),
        ({"out": tmp_path / "full" / "file"}, "file exists and is not an empty folder"),
        ({"format": "onnx"}, "--format: unknown 'onnx': choose from safetensors, diffusers"),
        ({"vae": "somewhere"}, "--vae does not go with --format=safetensors"),
        ({"format": "diffusers", "vae": workdir}, "--format=diffusers: .* holds no AutoencoderKL"),
    ):
        with pytest.raises(ConfigError, match=text):
            export(read_config(workdir), workdir, **{"out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "full").iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("model.name", "mdt", "config.model.name='mdt' cannot be exported: a DiT of diffusers has 'dit'"),
        ("inputs.name", "default", "config.inputs.name='default' cannot be exported"),
        ("shift", 2.0, "config.shift=2.0 cannot be exported"),
        ("codec.name", "haar", "config.codec.name='haar' cannot be exported"),
        ("process.name", "linear_flow", "process='linear_flow' cannot be exported"),
        ("prediction.name", "velocity", "prediction='velocity' cannot be exported"),
        ("model.level_features", "dit", "train with config.model.level_features='diffusers'"),
    ],
)
def test_runs_that_diffusers_cannot_hold(experiment, average, tmp_path, path, value, text):
    config = ConfigDict(experiment.config.to_dict())
    config.update_from_flattened_dict({path: value})
    weights = Weights((8, 8, 1), experiment.cond, STEP, 0.999, 0)
    with pytest.raises(ValueError, match=text):
        to_pipeline(Job(tmp_path / "out", experiment._replace(config=config), average, weights, None))
    assert not (tmp_path / "out").exists()


def test_other_files_are_no_exports(tmp_path):
    path = tmp_path / "x.safetensors"
    for metadata, text in (
        ({}, "is not a file of weights that maskdiff_jax has exported"),
        ({"format": "pt"}, "is not a file of weights"),
        ({"format": "maskdiff_jax", "config": "{"}, "its config cannot be read"),
        ({"format": "maskdiff_jax", "config": "3"}, "its config cannot be read"),
    ):
        write_tensors(path, {"x": np.zeros(2, np.float32)}, metadata)
        with pytest.raises(ValueError, match=text):
            exports.read(path)
