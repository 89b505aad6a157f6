"""What is written beside a run, and what a resumed run may change."""

import json
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.workdir import differences, plain, provenance, read_json, revision, write_json

CONFIG = {
    "seed": 0,
    "optimizer": {"name": "adamw", "lr": 1e-3, "betas": (0.9, 0.99)},
    "model": {"options": {}, "remat": False},
    "log": {"every": 10},
    "logarithm": 2,
}


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


@pytest.mark.parametrize(
    "change, lines",
    [
        ({}, []),
        ({"optimizer": CONFIG["optimizer"] | {"lr": 2e-3}}, ["optimizer.lr: 0.001 in the workdir, 0.002 now"]),
        ({"optimizer": CONFIG["optimizer"] | {"betas": [0.9, 0.99]}}, []),
        ({"optimizer": {"name": "adamw", "lr": 1e-3}}, ["optimizer.betas: [0.9, 0.99] in the workdir, absent now"]),
        ({"model": {"options": {"d": 2}, "remat": 0}},
         ["model.options: {} in the workdir, absent now", "model.remat: false in the workdir, 0 now",
          "model.options.d: absent in the workdir, 2 now"]),
        ({"log": {"every": 20}, "evaluate": {"every": 5}}, []),
        ({"logarithm": 3}, ["logarithm: 2 in the workdir, 3 now"]),
        ({"seed": 0.0}, []),
        ({"seed": None}, ["seed: 0 in the workdir, null now"]),
    ],
)  # fmt: skip
def test_differences(change, lines):
    stored = json.loads(json.dumps(plain(CONFIG)))
    assert differences(stored, CONFIG | change) == lines


def test_free_keys_may_be_single_ones():
    new = CONFIG | {"seed": 1, "optimizer": CONFIG["optimizer"] | {"lr": 1.0, "name": "sgd"}}
    lines = differences(CONFIG, new, free=("seed", "optimizer.lr"))
    assert lines == ['optimizer.name: "adamw" in the workdir, "sgd" now']


def test_provenance_is_json_and_its_digest_follows_the_configuration():
    one, same, other = provenance(CONFIG), provenance(dict(reversed(CONFIG.items()))), provenance(CONFIG | {"seed": 1})
    assert plain(one) == one and one == same
    assert one["config_sha256"] != other["config_sha256"] and len(one["config_sha256"]) == 64
    assert one["devices"] == 8 and one["processes"] == 1 and one["versions"]["jax"]


def test_revision_names_the_commit_and_says_when_files_differ(tmp_path):
    def git(*args):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert revision(tmp_path) is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    assert revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("b")
    assert revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inside").mkdir()
    assert revision(tmp_path / "inside") is None
