"""A trained network in one call: of a run and of its export alike."""

import jax
import numpy as np
import pytest

import maskdiff_jax
from maskdiff_jax.parts import ConfigError
from tests.cli import TINY, here

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, request):
    request.getfixturevalue("compiled_once")
    workdir = tmp_path_factory.mktemp("loading") / "run"
    assert here(*TINY, "--config.steps=5", f"--workdir={workdir}") == 0
    assert here("--mode=export", f"--workdir={workdir}") == 0
    return workdir, workdir / "exported" / "safetensors"


@pytest.fixture(scope="module")
def loaded(folders):
    return [maskdiff_jax.load(folder) for folder in folders]


def test_a_run_and_its_export_draw_the_same_images(loaded, folders):
    images = [model.sample(3, labels=[3, 7]) for model in loaded]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (3, 8, 8, 1) and images[0].dtype == np.uint8 and images[0].std() > 0
    assert [model.step for model in loaded] == [5, 5]


def test_an_image_is_that_of_the_command_line(loaded, folders, tmp_path):
    workdir, _ = folders
    assert here("--mode=sample", f"--workdir={workdir}", "--num=3", "--labels=3,7", f"--out={tmp_path / 'a'}") == 0
    with np.load(tmp_path / "a.npz") as file:
        difference = file["images"].astype(int) - loaded[0].sample(3, labels=[3, 7])
    assert np.abs(difference).max() <= 1  # another size of batch rounds differently


def test_key_and_settings_are_heeded_and_compiled_once(loaded):
    model = loaded[1]
    first = model.sample(2, key=1)
    programs = model._generator.cache_info().misses
    np.testing.assert_array_equal(first, model.sample(2, key=1))
    assert (first != model.sample(2, key=2)).any() and (first != model.sample(2, key=jax.random.key(1))).any()
    assert model._generator.cache_info().misses == programs
    assert (first != model.sample(2, key=1, steps=2)).any()


@pytest.mark.parametrize(
    "arguments, said",
    [({"labels": [10]}, "'10' is not a class"), ({"controls": {"flip": 1.0}}, "'flip' is no condition")],
)
def test_what_the_network_does_not_know_is_named(loaded, arguments, said):
    with pytest.raises(ConfigError, match=said):
        loaded[1].sample(**arguments)


def test_other_folders_are_refused(tmp_path, folders):
    with pytest.raises(ConfigError, match=r"neither the workdir of a run nor a folder with model\.safetensors"):
        maskdiff_jax.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        maskdiff_jax.load(tmp_path)
    assert not hasattr(maskdiff_jax, "lode")
