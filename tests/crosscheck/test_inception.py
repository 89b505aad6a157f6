"""Inception, its weights and its input against torch-fidelity and PyTorch, live."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from maskdiff_jax.evaluate.features import FEATURES, Given
from maskdiff_jax.evaluate.features.resize import centres, corners, resize
from maskdiff_jax.evaluate.features.torch_weights import main
from maskdiff_jax.weights.torch_files import read_tensors
from tests.crosscheck import reference
from tests.evaluate.inception_inputs import images, state_dict
from tests.evaluate.recorded_answers import CONVENTIONS, INCEPTION_IMAGES, RESIZES, answers

PLACES = {"tf": corners, "torch": centres}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights as torch saves them: a file in either layout, with all that torch's network has."""
    folder = tmp_path_factory.mktemp("weights")
    tensors = state_dict() | {"fc.bias": np.ones(1008, np.float32)}
    for archive in (True, False):
        reference.save(tensors, folder / f"archive_{archive}.pth", archive)
    yield folder
    for path in folder.iterdir():
        path.unlink()


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4 * expected[name].std(), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("shape", [(3, 32, 32, 3), (2, 310, 90, 3)], ids=str)
def test_features_with_converted_weights(weights, shape):
    """From torch's file through the command to features: those of torch-fidelity, to 1e-4."""
    source, target = weights / "archive_True.pth", weights / "inception.npz"
    main([str(source), str(target)])
    features = FEATURES["inception"](str(target), batch=2)(Given(shape[1:]))
    agree(features.extract(images(*shape)), reference.features(source, images(*shape)))


def test_both_layouts_hold_the_same(weights):
    for archive in (True, False):
        main([str(weights / f"archive_{archive}.pth"), str(weights / f"{archive}.npz")])
    assert (weights / "True.npz").read_bytes() == (weights / "False.npz").read_bytes()


def test_recorded_features_are_those_of_today(weights):
    agree(answers("inception"), reference.features(weights / "archive_True.pth", images(*INCEPTION_IMAGES)))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", RESIZES)
def test_recorded_resizing_is_that_of_today(convention, name):
    shape, side, step = RESIZES[name]
    today = reference.resized(images(*shape), side, convention)[:, ::step, ::step]
    np.testing.assert_allclose(answers("resize")[f"{convention}_{name}"], today, atol=1e-3)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 48), (256, 256), (299, 299), (500, 310)], ids=str)
def test_resizing_to_299(convention, size):
    """Every pixel, to a hundredth of a grey level."""
    x, side = images(1, *size, 3), (299, 299)
    found = resize(x, side, PLACES[convention])
    np.testing.assert_allclose(found, reference.resized(x, side, convention), atol=0.01)


@pytest.mark.parametrize("archive", [True, False])
def test_whatever_torch_saves(tmp_path: Path, archive):
    """Layers of several kinds, in several dtypes, with shared storages: torch's own numbers."""
    torch.manual_seed(0)
    kinds = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    state = kinds.state_dict()
    state |= {f"like.{dtype}": (8 * torch.rand(5, 3)).to(dtype).T for dtype in (torch.float16, torch.int32, torch.bool)}
    state["part"] = state["0.weight"][1:, ::2]
    path = tmp_path / "state.pth"
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    arrays = read_tensors(path.read_bytes())
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy(), strict=True)
    torch.save({"x": torch.rand(3).bfloat16()}, path, _use_new_zipfile_serialization=archive)
    half = read_tensors(path.read_bytes())["x"]
    np.testing.assert_array_equal(half.astype(np.float32), torch.load(path)["x"].float().numpy())


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("archive", [True, False])
def test_harmful_files_that_torch_saved(tmp_path, archive):
    path = tmp_path / "harm.pth"
    torch.save({"x": torch.rand(3), "y": Harm(tmp_path / "harm")}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"^it asks for posix\.mkdir, and only tensors are read$"):
        read_tensors(path.read_bytes())
    assert list(tmp_path.iterdir()) == [path]
