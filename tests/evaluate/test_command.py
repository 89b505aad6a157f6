"""``python -m maskdiff_jax.evaluate``: two sets of images at the command line."""

import json

import numpy as np
import pytest

from maskdiff_jax.evaluate.__main__ import main
from maskdiff_jax.evaluate.metrics import METRICS

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three sets of 120 images from one distribution, the first two with labels."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("real", "fake", "held"):
        images = RNG.integers(0, 256, (120, 3, 3, 1), np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(120) % 2)
    return folder


def run(sets, *arguments, real="real.npz", fake="fake.npz"):
    main([f"--real={sets / real}", f"--fake={sets / fake}", *arguments])


def test_the_value_is_that_of_the_formula_and_is_written(sets, tmp_path, capsys):
    run(sets, "--metrics=fid,precision,nearest,copied", f"--out={tmp_path / 'found.json'}")
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    flat = lambda name: np.load(sets / name)["images"].reshape(120, -1) / 127.5 - 1  # noqa: E731
    a, b = flat("real.npz"), flat("fake.npz")
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).real).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t) - 2 * root
    assert found["values"]["fid"] == pytest.approx(expected, rel=1e-5)
    assert found["counts"] == {"samples": 120, "real": 120, "train": 120} and found["images_per_second"] > 0
    for name in found["values"]:
        assert name in shown and METRICS[name].describes in shown


def test_a_set_against_itself(sets, tmp_path):
    run(sets, "--metrics=fid,recall,copied", f"--out={tmp_path / 'found.json'}", fake="real.npz")
    values = json.loads((tmp_path / "found.json").read_text())["values"]
    assert abs(values["fid"]) < 1e-5 and values["recall"] == 1 and values["copied"] == 1


def test_statistics_stand_for_the_real_images(sets, tmp_path):
    flat = np.load(sets / "real.npz")["images"].reshape(120, -1) / 127.5 - 1
    np.savez(sets / "statistics.npz", mu=flat.mean(0), sigma=np.cov(flat.T))
    for real, out in (("statistics.npz", "a"), ("real.npz", "b")):
        run(sets, f"--out={tmp_path / out}", real=real)
    values = [json.loads((tmp_path / out).read_text())["values"]["fid"] for out in ("a", "b")]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_other_sets_where_metrics_need_them(sets, tmp_path):
    held, out = f"--heldout={sets / 'held.npz'}", tmp_path / "found.json"
    run(sets, "--metrics=ct,authpct", held, f"--out={out}")
    assert set(json.loads(out.read_text())["values"]) == {"ct", "authpct"}


WRONG = {
    "metric": (("--metrics=fdi",), "unknown metric 'fdi': choose from fid, kid"),
    "too few": (("--metrics=kid",), "kid needs at least 1000 samples, got 120"),
    "held out": (("--metrics=ct",), "ct needs --heldout"),
    "weights": (("--features=inception",), "download https://github.com/mseitzer/pytorch-fid/releases"),
    "option of another": (("--weights=w.npz",), "--weights is of --features=inception"),
    "logits of pixels": (("--metrics=is",), "no logits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case, sets, capsys):
    arguments, message = WRONG[case]
    with pytest.raises(SystemExit) as stopped:
        run(sets, *arguments)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and message in error and error.startswith("error: ") and "\n" not in error


def test_sets_that_do_not_fit_each_other(sets, tmp_path, capsys):
    np.savez(sets / "large.npz", images=np.zeros((120, 4, 4, 1), np.uint8))
    with pytest.raises(SystemExit):
        run(sets, fake="large.npz")
    assert "are of 3x3x1, and" in capsys.readouterr().err
    np.savez(sets / "narrow.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(SystemExit):
        run(sets, real="narrow.npz")
    assert "error: " in capsys.readouterr().err
