"""Two checkpoints that the files of this folder share by fixtures."""

import shutil
from pathlib import Path

import pytest

from tests.train.saved import make_states, save_all


@pytest.fixture(scope="module")
def states():
    return make_states()


@pytest.fixture(scope="module")
def saved(states, tmp_path_factory) -> Path:
    return save_all(tmp_path_factory.mktemp("saved") / "checkpoints", states)


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoints")
