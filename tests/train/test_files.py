"""Files are written whole or not at all, and JSON reads back as what was written."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.files import read_json, write_json

CONFIG = {"seed": 0, "optimizer": {"name": "adamw", "betas": (0.9, 0.99)}}


def test_json_round_trip(tmp_path):
    path = tmp_path / "new" / "config.json"
    write_json(path, CONFIG)
    assert read_json(path) == CONFIG | {"optimizer": CONFIG["optimizer"] | {"betas": [0.9, 0.99]}}
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]
    write_json(path, {"a": np.float32(0.1), "b": jnp.arange(3), "c": [float("nan"), -float("inf")], "d": tmp_path})
    assert read_json(path) == {"a": float(np.float32(0.1)), "b": [0, 1, 2], "c": ["nan", "-inf"], "d": str(tmp_path)}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match=r"not JSON data: <object"):
        write_json(path, {"a": object()})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_json(tmp_path / "folder", {"a": 1})
    assert read_json(path) == {"a": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "folder"]


def test_reading_what_is_not_json(tmp_path):
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON: "):
        read_json(tmp_path / "config.json")
