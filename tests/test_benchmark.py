"""``--mode=benchmark``: figures that fit each other, sweeps, and bad input. No time is asserted."""

import json

import pytest

from configs import digits_sparse
from maskdiff_jax import benchmark
from maskdiff_jax.parts import ConfigError
from tests.cli import TINY, here

MODE = ("--mode=benchmark", *TINY, "--rounds=1", "--config.visibility.name=patch", "--config.visibility.ratio=0.5")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "SIDES", {"cpu": 64})
    monkeypatch.setattr(benchmark, "MEGABYTES", {"cpu": 1})
    monkeypatch.setattr(benchmark, "INPUT_SECONDS", 0.05)


def test_parts_say_what_they_measured_and_agree(tmp_path, capsys):
    assert here(*MODE, "--config.evaluate.batch=8", f"--out={tmp_path / 'b.json'}") == 0
    found, shown = json.loads((tmp_path / "b.json").read_text()), capsys.readouterr().out
    step = found["step"]
    assert step["fastest"] <= step["seconds"] <= step["slowest"] and step["compile_seconds"] > 0
    assert step["images_per_second"] == pytest.approx(16 / step["seconds"])
    assert step["flops_per_second"] / step["images_per_second"] > 1000
    assert min(found["ceilings"].values()) > 0
    assert found["input"]["images_per_second"] > 0 and found["sampling"]["images_per_second"] > 0
    assert step["state_bytes"] > 4 * 10_000 and found["devices"] == 8
    for word in ("ceiling", "compiling", "MFU", "GB/s", "memory", "input", "sampling", "3 steps"):
        assert word in shown


def test_a_sweep_has_a_row_for_each_value_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(benchmark.SWEEPS, "ratio", lambda config: benchmark.sweep_ratio(config)[::3])
    assert here(*MODE, "--sweep=ratio", f"--out={tmp_path / 'sweep.json'}") == 0
    rows = json.loads((tmp_path / "sweep.json").read_text())["sweep"]["rows"]
    assert [row["ratio"] for row in rows] == [0, 0.75]
    assert rows[1]["flops_per_image"] < 0.5 * rows[0]["flops_per_image"]
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert "images/s" in capsys.readouterr().out


def test_sweeps_hold_what_they_say():
    config = benchmark.ConfigDict({"batch": 16})
    assert [value for value, _ in benchmark.sweep_batch(config)] == [4, 8, 16, 32, 64]
    assert [value for value, _ in benchmark.sweep_devices(config)] == [1, 2, 4, 8]


def test_tokens_are_swept_by_the_patch():
    config = digits_sparse.get_config()
    swept = benchmark.sweep_tokens(config)
    assert [(value, changes["model"]["patch"]) for value, changes in swept] == [(1, 8), (4, 4), (16, 2), (64, 1)]
    assert all(changes["model"]["width"] == config.model.width for _, changes in swept)
    config.model = {"name": "unet", "base": 32, "multipliers": (1, 2), "blocks": 1}
    with pytest.raises(ConfigError, match="'unet' has no patches of one size to change"):
        benchmark.sweep_tokens(config)


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("--only=stpe",), "--only: unknown 'stpe'; choose from ceilings, step, input, sampling"),
        (("--sweep=size",), "--sweep: 'size': choose from batch, tokens, ratio, devices"),
        (("--sweep=batch", "--only=step"), "without --only"),
        (("--workdir=x", "--labels=3"), "--labels does not go with --mode=benchmark"),
        (("--config.model.patch=3",), "patch=3 does not divide"),
    ],
)
def test_bad_input_is_one_line(arguments, text, capsys):
    assert here(*MODE, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and text in error[0]


def test_no_file_is_overwritten(tmp_path, capsys):
    (tmp_path / "b.json").write_text("mine")
    assert here(*MODE, f"--out={tmp_path / 'b.json'}") == 2
    assert "exists: name another file" in capsys.readouterr().err and (tmp_path / "b.json").read_text() == "mine"
