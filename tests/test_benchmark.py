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
    assert_roofline(found["roofline"], step)
    assert found["input"]["images_per_second"] > 0 and found["sampling"]["images_per_second"] > 0
    assert step["state_bytes"] > 4 * 10_000 and found["devices"] == 8
    for word in ("ceiling", "compiling", "MFU", "GB/s", "memory", "input", "sampling", "3 steps", "bound by"):
        assert word in shown


def assert_roofline(found, step):
    """Of one of eight devices, which has 2 of the 16 images and 2 of the 4 tokens of each."""
    rows = {row["part"]: row for row in found["rows"]}
    assert {"attention", "MLP", "adaLN", "optimiser", "gather", "embedding", "the rest"} <= rows.keys()
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(step["seconds"])
    b, k, width = 2, 2, 16
    linear, sides = 2 * b * k * width**2, 2 * b * k * k * width
    assert rows["attention"]["flops"] == 3 * (4 * linear + 2 * sides)  # queries, keys, values, output; two products
    assert rows["MLP"]["flops"] == 3 * 2 * 4 * linear
    given = 4 * (b * k * width + 2 * 4 * width**2 + 5 * width)  # the tokens; two kernels and their biases
    assert rows["MLP"]["bytes"] == 2 * given + 2 * 4 * b * k * width  # and their gradients; the answer and its own
    for row in found["rows"][:-1]:
        times = row["flops"] / found["ceilings"]["flops"], row["bytes"] / found["ceilings"]["bytes"]
        assert row["bound"] == ("arithmetic", "memory")[times[1] >= times[0]]
        assert row["reached"] * row["seconds"] == pytest.approx(max(times)) and row["calls"] >= 1


def test_sweeps_have_a_row_for_each_value_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(benchmark.SWEEPS, "ratio", lambda config: benchmark.sweep_ratio(config)[3:4])
    monkeypatch.setitem(benchmark.SWEEPS, "devices", lambda config: benchmark.sweep_devices(config)[:1])
    assert here(*MODE, "--sweep=devices,ratio", f"--out={tmp_path / 'sweep.json'}") == 0
    sweeps = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]
    assert [[(row[of], row["images_per_second"] > 0) for row in rows] for of, rows in sweeps.items()] == [
        [(1, True)],
        [(0.75, True)],
    ]
    half, quarter = (sweeps[of][0]["flops_per_image"] for of in ("devices", "ratio"))  # of the tokens
    assert quarter < 0.8 * half
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert capsys.readouterr().out.count("images/s") == 2


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
        (("--only=stpe",), "--only: unknown 'stpe'; choose from ceilings, step, roofline, input, sampling"),
        (("--sweep=batch,size",), "--sweep: 'size': choose from batch, tokens, ratio, devices"),
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
