"""The weights of a run as files: what they hold, what the card promises of them, and what is refused."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits_sparse
from maskdiff_jax.build import build
from maskdiff_jax.evaluate.report import make_report, save_report
from maskdiff_jax.export import FORMATS, Job, export, read_exported, to_pipeline
from maskdiff_jax.inference import read_config
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.digest import flatten
from maskdiff_jax.train.files import plain, write_json
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.state import state_from
from maskdiff_jax.weights.card import Weights
from maskdiff_jax.weights.files import read_weights
from maskdiff_jax.weights.folders import read_metadata, write_tensors
from tests.evaluate.test_report import entries
from tests.models.perturb import random_params

STEP = 3


@pytest.fixture(scope="module")
def experiment():
    config = digits_sparse.get_config()
    config.name, config.batch = "small", 8
    config.model = {"name": "dit", "patch": 4, "width": 16, "depth": 2, "heads": 2, "learned_variance": True}
    config.model.update({"level_scale": 1.0, "level_features": "diffusers"})
    config.process = {"name": "ddpm_linear", "steps": 100}
    config.prediction = {"name": "eps"}
    config.inputs = {"name": "discrete"}
    config.loss.vlb_weight = 0.001
    config.sample.sampler = {"name": "ddim"}
    config.sample.steps = 2
    return build(config)


@pytest.fixture(scope="module")
def average(experiment):
    return random_params(experiment.model.init)


@pytest.fixture(scope="module")
def workdir(experiment, average, tmp_path_factory):
    """A run as training leaves it, but for the training: its average is not its raw parameters."""
    workdir = tmp_path_factory.mktemp("run")
    raw = jax.tree.map(lambda leaf: leaf + 1, average)
    states = [state_from(params, experiment.optimizer, STEP, make_mesh()) for params in (raw, average)]
    meta = {"config": experiment.config.to_dict(), "fingerprint": experiment.dataset.fingerprint, "seconds": 0.0}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(STEP, states[1]._replace(params=states[0].params), {}, meta, wait=True)
    write_json(workdir / "config.json", experiment.config.to_dict())
    save_report(workdir / "report.json", make_report(**entries(steps=STEP)))
    return workdir


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
    config, params, step = read_exported(path)
    assert_identical(params, average)
    described = {"name": "maskdiff_jax.plan:shape_only", "height": 8, "width": 8, "channels": 1, "classes": 10}
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
    assert_identical(names["params"], average)
    assert names["facts"].classes == 10


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
            read_exported(path)
