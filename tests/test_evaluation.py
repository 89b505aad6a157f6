"""``--mode=evaluate --metrics`` and ``--mode=diagnose``: figures, resumption, sweeps, and metrics during training."""

import json
import shutil

import jax
import numpy as np
import pytest

from maskdiff_jax import evaluation
from maskdiff_jax.build import build, make_sample
from maskdiff_jax.data.digits import digits
from maskdiff_jax.data.pixels import to_uint8
from maskdiff_jax.evaluate.image_sets import read_images, whole
from maskdiff_jax.evaluate.sample_store import at_hand, fill, images_at, stored
from maskdiff_jax.evaluate.sampling import balanced_labels, make_generate
from maskdiff_jax.samplers import initial_noise
from maskdiff_jax.train.parallel import collect, make_mesh, place
from maskdiff_jax.train.writers import read_jsonl
from maskdiff_jax.types import Cond
from tests.cli import TINY, here
from tests.models.perturb import random_params
from tests.test_build import tiny

EVALUATE = ("--mode=evaluate", "--features=pixels", "--steps=2")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ten steps with metrics of 30 samples at step 5 and in the end."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    metrics = ("--config.evaluate.num=30", "--config.evaluate.metrics=('fid','precision')", "--config.steps=10")
    more = ("--config.evaluate.features.name=pixels", "--config.log.quality_every=5", "--config.evaluate.batch=16")
    pictures = ("--config.log.sample_every=5", "--config.log.page=True")
    judge = ("--config.evaluate.judge.name=none", "--config.supervision.ratio=0.9")
    assert here(*TINY, *metrics, *more, *judge, *pictures, f"--workdir={workdir}") == 0
    return workdir


def results(run):
    return {path.parent: json.loads(path.read_text()) for path in run.glob("evaluations/*/metrics.json")}


def test_metrics_in_training_are_those_of_the_report(run):
    rows = {row["step"]: row for row in read_jsonl(run / "metrics.jsonl")}
    report = json.loads((run / "report.json").read_text())
    assert rows[10]["quality/fid"] == pytest.approx(report["metrics"]["fid"], rel=1e-6)
    assert rows[5]["quality/fid"] != rows[10]["quality/fid"] and 0 <= rows[5]["quality/precision"] <= 1
    assert report["features"]["name"] == "pixels"
    assert {"final.png", "nearest.png", "masks.png"} <= {path.name for path in (run / "samples").iterdir()}
    assert "</html>" in (run / "report.html").read_text()


def test_the_figure_is_the_formula_on_the_samples_that_were_kept(run, capsys, cache):
    assert here(*EVALUATE, f"--workdir={run}", "--metrics=fid", "--num=40", "--guidance=1.5") == 0
    ((folder, found),) = [(f, r) for f, r in results(run).items() if r["settings"]["guidance"] == 1.5]
    (result,) = found["results"]
    images, labels = whole(read_images(folder / "samples"))
    assert images.shape == (40, 8, 8, 1) and labels is not None
    np.testing.assert_array_equal(labels, balanced_labels(40, 10))
    real = digits().train.fetch(np.arange(len(digits().train)))["image"]
    a, b = (x.reshape(len(x), -1) / 127.5 - 1 for x in (images.astype(np.float64), real.astype(np.float64)))
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).real.clip(0)).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t) - 2 * root
    assert result["values"]["fid"] == pytest.approx(expected, rel=1e-3)
    shown = capsys.readouterr().out
    assert f"{result['values']['fid']:.6g}" in shown and "images/s" in shown and result["images_per_second"] > 0
    assert [path.name.startswith("pixels-") for path in (cache / "maskdiff_jax").iterdir()] == [True]


def test_an_interrupted_evaluation_goes_on(run, monkeypatch):
    arguments = (*EVALUATE, f"--workdir={run}", "--metrics=fid", "--num=60", "--seed=3")
    drawn = []

    def interrupted(images):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(images))
        return to_uint8(images)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "to_uint8", interrupted)
        assert here(*arguments) == 130
    (folder,) = run.glob("evaluations/*seed_3*")
    assert sum(drawn) == 32 and at_hand(folder / "samples") == 32 and not (folder / "metrics.json").exists()
    assert here(*arguments) == 0
    whole_run = stored(folder / "samples", 60)
    again = here(*arguments[:-1], "--seed=3", "--checkpoint=10")  # all is there: another result, no new samples
    files = {path: path.stat().st_mtime_ns for path in (folder / "samples").iterdir()}
    assert again == 0 and len(results(run)[folder]["results"]) == 2
    first, second = results(run)[folder]["results"]
    assert first["values"] == second["values"] and second["images_per_second"] is None
    assert files == {path: path.stat().st_mtime_ns for path in (folder / "samples").iterdir()}
    assert len(whole(whole_run)[0]) == 60


def test_statistics_of_a_file_stand_for_the_training_images(run):
    mean, covariance = np.full(64, 0.25), np.diag(np.linspace(0.1, 1, 64))
    np.savez(run / "given.npz", mu=mean, sigma=covariance)
    given = f"--reference={run / 'given.npz'}"
    assert here(*EVALUATE, f"--workdir={run}", "--metrics=fid", "--num=40", "--seed=9", given) == 0
    ((folder, found),) = [(f, r) for f, r in results(run).items() if r["settings"]["seed"] == 9]
    x = whole(read_images(folder / "samples"))[0].reshape(40, -1) / 127.5 - 1
    s = np.cov(x.T)
    root = np.sqrt(np.linalg.eigvals(s @ covariance).real.clip(0)).sum()
    expected = np.square(x.mean(0) - mean).sum() + np.trace(s + covariance) - 2 * root
    assert found["results"][0]["values"]["fid"] == pytest.approx(expected, rel=1e-3)


def test_samples_that_are_not_finite_are_refused(run, capsys, monkeypatch):
    bad = np.full((16, 8, 8, 1), np.nan, np.float32)
    monkeypatch.setattr(evaluation, "generator", lambda *_: lambda params, count, *_: bad[:count])
    assert here(*EVALUATE, f"--workdir={run}", "--metrics=fid", "--num=20", "--seed=4") == 2
    assert "16 of 16 samples from number 0 on hold NaN" in capsys.readouterr().err
    assert not list(run.glob("evaluations/*seed_4*/samples/*"))


def test_every_combination_is_an_evaluation_of_its_own(run):
    arguments = ("--metrics=nearest,copied", "--num=20", "--guidance=1,2", "--sampler=euler", "--steps=1,2")
    assert here("--mode=evaluate", "--features=pixels", f"--workdir={run}", *arguments) == 0
    found = {folder: r for folder, r in results(run).items() if r["settings"]["sampler"] == "euler"}
    settings = {(r["settings"]["steps"], r["settings"]["guidance"]) for r in found.values()}
    assert settings == {(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)}
    assert all((folder / "nearest.png").exists() for folder in found)
    page = (run / "report.html").read_text()
    assert page.count("euler") >= 4


def test_the_page_of_a_run_that_is_still_training(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*", "evaluations", "diagnos*"))
    assert here("--mode=report", f"--workdir={tmp_path / 'run'}") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Held-out loss" in page and "</html>" in page
    assert here("--mode=report", f"--workdir={tmp_path}") == 2


def test_diagnosis(run, capsys):
    few = (
        "--config=configs/digits_sparse.py",
        "--config.evaluate.diagnose.steps=(1,2,4)",
        "--config.evaluate.levels=4",
    )
    assert here("--mode=diagnose", f"--workdir={run}", "--num=8", *few) == 0
    found = json.loads((run / "diagnostics.json").read_text())
    assert len(found["bias"]) == 4 and len(found["context"]) == 8 and found["images"] == 8
    assert [row["steps"] for row in found["colour_shift"]] == [1, 2, 4]
    assert found["colour_shift"][-1]["shift"] == [0.0] and found["colour_shift"][0]["shift"][0] > 0
    assert all(row["mse_eps"] > 0 for row in found["bias"])
    assert (run / "diagnostics" / "context.png").exists() and "chroma" in capsys.readouterr().out


WRONG = {
    "metric": (("--metrics=fdi",), "config.evaluate.metrics: unknown 'fdi' (did you mean 'fid'?)"),
    "too few": (("--metrics=kid", "--num=30"), "config.evaluate.num: kid needs at least 1000 samples, got 30"),
    "features": (("--metrics=fid", "--features=inceptoin"), "did you mean 'inception'?"),
    "weights": (("--metrics=fid", "--features=inception", "--weights=no.npz"), "download https://github.com"),
    "weights of pixels": (("--metrics=fid", "--features=pixels", "--weights=no.npz"), "has no such option"),
    "spatial": (("--metrics=sfid", "--features=pixels", "--num=30"), "have no spatial"),
    "statistics": (("--metrics=fid", "--features=pixels", "--reference=no.npz"), "no.npz: no such statistics file"),
    "pools of statistics": (
        ("--metrics=recall", "--features=pixels", "--num=30", "--reference={run}/mu.npz"),
        "recall needs pool of real images, not only their statistics",
    ),
    "statistics of others": (
        ("--metrics=fid", "--features=pixels", "--num=30", "--reference={run}/narrow.npz"),
        "narrow.npz: statistics of 3 features, 64 needed",
    ),
    "steps": (("--metrics=fid", "--steps=many"), "--steps: 'many' is not a whole number of at least 1"),
    "sweep of a report": (("--guidance=1,2",), "several --steps or --guidance go with --metrics"),
    "sampler": (("--metrics=fid", "--sampler=oiler", "--features=pixels"), "did you mean 'euler'?"),
    "flag of another mode": (("--metrics=fid", "--labels=3"), "--labels does not go with --mode=evaluate"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_draws_nothing(case, run, capsys):
    arguments, message = WRONG[case]
    arguments = [argument.format(run=run) for argument in arguments]
    for name, d in (("mu", 64), ("narrow", 3)):
        np.savez(run / f"{name}.npz", mu=np.zeros(d), sigma=np.eye(d))
    before = sorted(run.rglob("*.npz"))
    assert here("--mode=evaluate", f"--workdir={run}", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert sorted(run.rglob("*.npz")) == before


def test_samples_do_not_depend_on_devices_or_batches():
    experiment = build(tiny())
    params, cond = random_params(experiment.model.init), Cond(label=balanced_labels(96, 10))

    def noise(params, keys, cond):
        return initial_noise(experiment.process, keys, (8, 8, 1)) / 8 + cond.label[:, None, None, None] / 16

    def drawn(sample, devices, size):
        mesh = make_mesh(jax.devices()[:devices])
        put = lambda tree: place(mesh, tree)  # noqa: E731
        return make_generate(sample, batch_size=size, place=put, collect=collect)(params, 96, cond)

    sample = make_sample(experiment, experiment.config.sample)
    chosen, images = drawn(noise, 1, 96), drawn(sample, 1, 96)
    assert np.std(images) > 0.1
    for devices, size in ((8, 96), (8, 40), (1, 7)):
        np.testing.assert_array_equal(drawn(noise, devices, size), chosen)
        found = drawn(sample, devices, size)
        np.testing.assert_allclose(found, images, atol=1e-4)
        assert np.mean(to_uint8(found) == to_uint8(images)) >= 0.999


def test_a_store_draws_what_is_missing_and_what_is_damaged(tmp_path):
    calls = []

    def draw(first, count):
        calls.append((first, count))
        return np.arange(first, first + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)

    assert fill(tmp_path, at_hand(tmp_path), 10, draw, 4) == 10 and calls == [(0, 4), (4, 4), (8, 2)]
    assert fill(tmp_path, at_hand(tmp_path), 13, draw, 8) == 3 and calls[3:] == [(10, 3)]
    data = bytearray((tmp_path / "000000004-000000008.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "000000004-000000008.npz").write_bytes(data)
    assert at_hand(tmp_path) == 4
    assert fill(tmp_path, at_hand(tmp_path), 13, draw, 4) == 9 and calls[4:] == [(4, 4), (8, 4), (12, 1)]
    samples = stored(tmp_path, 11)
    assert whole(samples)[0][:, 0, 0, 0].tolist() == list(range(11)) and samples.labels is None
    assert images_at(samples, np.array([9, 2]))[:, 0, 0, 0].tolist() == [9, 2]
    with pytest.raises(ValueError, match="13 samples, 14 are needed"):
        stored(tmp_path, 14)
