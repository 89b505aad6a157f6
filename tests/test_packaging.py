"""What an installed wheel holds is what the repository holds."""

import configparser
import importlib
from pathlib import Path

import pytest

from maskdiff_jax.config import default_config
from maskdiff_jax.main import find_config
from maskdiff_jax.parts import check_keys

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def test_setup_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "maskdiff_jax").rglob("__init__.py")}
    assert listed == there | {"maskdiff_jax.configs"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_found_by_name_and_states_its_command(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / "configs" / f"{name}.py"
    module = importlib.import_module(f"configs.{name}")
    assert f"--config=configs/{name}.py" in (module.__doc__ or "")
    check_keys(module.get_config(), default_config())


def test_an_unknown_config_lists_the_shipped_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        find_config("digits_spars")
    assert stop.value.code == 2 and "digits_sparse" in capsys.readouterr().err
