"""The claims' campaigns: every one end to end in a smoke version, and the pure parts against known answers."""

import io
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.claims import __main__ as command
from benchmarks.claims import noise, packed, readme, runner, text, verdicts
from benchmarks.claims.plan import SMOKE, Test, Whole, overlay
from benchmarks.claims.runner import Campaign
from benchmarks.claims.table import CLAIMS, MODULES
from benchmarks.claims.verdicts import FAILS, HOLDS, OPEN, Row
from maskdiff_jax.data.source import DataError
from maskdiff_jax.evaluate.curves import AXES, Curve
from maskdiff_jax.masks import sparse
from maskdiff_jax.stages import build_stages
from maskdiff_jax.types import Batch

pytestmark = pytest.mark.usefixtures("compiled_once")


def smoke(name, out, *options):
    command.main([name, "--smoke", "--no-compiled", f"--out={out}", *options])
    return json.loads((out / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("claims")


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_end_to_end(name, shared):
    out = shared / name
    found = smoke(name, out)
    plan = CLAIMS[name].plans["cpu"]
    compared = [arm.name for arm in plan.arms if arm.compared and arm.name in plan.smoke_arms]
    assert list(found["arms"]) == compared
    for arm in found["arms"].values():
        assert set(plan.columns) & set(arm["figures"]) and all(math.isfinite(s) for s in arm["seconds"])
        assert all(flops > 0 for flops in arm["flops"]) and all(n > 0 for n in arm["supervised"])
    assert found["verdict"] == verdicts.UNDECIDED and found["smoke"]  # one seed has no interval
    assert all(test["outcome"] == OPEN for test in found["tests"])
    assert found["command"] == f"python -m benchmarks.claims {name} --budget=cpu --seeds=1 --out=DIR --smoke"
    page = (out / f"{name}.md").read_text()
    assert all(f"| {arm} |" in page for arm in compared) and found["rule"] in page
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_retrained_and_another_plan_is_refused(shared, monkeypatch, capsys):
    """After `test_every_claim_runs_end_to_end`, or alone: then the first call trains."""
    out = shared / "ssd_small_data"
    first = smoke("ssd_small_data", out)
    path = out / "runs" / "dense_50_images" / "seed_0"
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}

    def refuse(*_):
        raise AssertionError("trained or measured again")

    monkeypatch.setattr(runner.run, "train", refuse)
    monkeypatch.setattr(runner, "View", refuse)
    again = smoke("ssd_small_data", out, "--note=Beside another program.")
    assert again["note"] == "Beside another program." and again["note"] in (out / "ssd_small_data.md").read_text()
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before
    assert again["arms"] == first["arms"]
    monkeypatch.setitem(SMOKE, "batch", 24)
    with pytest.raises(SystemExit) as stop:
        smoke("ssd_small_data", out)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "holds a run of another config: batch: 16 in the workdir, 24 now" in error[0]


def test_a_run_that_was_stopped_ends_the_campaign_with_its_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner.run, "train", lambda config, workdir: 130)
    with pytest.raises(SystemExit) as stop:
        smoke("ssd_small_data", tmp_path)
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(runner.run, "train", lambda config, workdir: 0)  # as after SIGTERM, without a report
    with pytest.raises(SystemExit) as stop:
        smoke("ssd_small_data", tmp_path)
    assert stop.value.code == 143


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["ssd"], "unknown claim 'ssd': choose from ssd_ratio, ssd_small_data, ssd_consistency, maskdm_compute, "),
        (["ssd_ratio", "--budget=tpu"], "--budget=tpu: choose from cpu, gpu"),
        (["compose", "--budget=gpu"], "compose has none; those that have: ssd_ratio, debias_steps"),
        (["ssd_ratio", "--budget=gpu"], "--budget=gpu needs --data"),
        (["ssd_ratio", "--seeds=0"], "--seeds=0: at least 1"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, text, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([*arguments, f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(error) == 1 and text in error[0]
    assert not (tmp_path / "out").exists()


def rows(**arms):
    return {name: Row({"fid": values}, {}) for name, values in arms.items()}


@pytest.mark.parametrize(
    "arm, other, below, expected",
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.8], 1.0, HOLDS),  # half of it in every seed, however far seeds are apart
        ([2.0, 2.2, 1.8], [1.0, 1.1, 0.9], 1.0, FAILS),
        ([0.5, 1.0, 2.0], [1.0, 1.0, 1.0], 1.0, OPEN),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 1.0, FAILS),  # equal is not below
        ([1.0, float("nan"), 1.0], [2.0, 2.0, 2.0], 1.0, OPEN),
        ([1.0], [2.0], 1.0, OPEN),
        ([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], 1.1, HOLDS),
    ],
)
def test_a_test_holds_where_the_whole_interval_does(arm, other, below, expected):
    found = verdicts.outcome(Test("fid", "a", "b", below=below), rows(a=arm, b=other))
    assert found.outcome == expected
    back = verdicts.outcome(Test("fid", "b", "a", above=1 / below), rows(a=arm, b=other))
    assert back.outcome == expected  # the same question, asked the other way round


def test_the_interval_of_a_ratio_is_students_of_the_logarithms():
    values = np.array([0.8, 0.9, 1.1])
    found = verdicts.outcome(Test("fid", "a", "b", below=1.0), rows(a=list(values * 3), b=[3.0] * 3))
    logs = np.log(values)
    half = 4.30265 * logs.std(ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(
        np.array([found.estimate, found.low, found.high], float),
        np.exp(logs.mean() + np.array([0, -half, half])),
        rtol=1e-4,
    )
    apart = verdicts.outcome(Test("fid", "a", "b", "difference", above=-0.05), rows(a=[0.9, 0.8], b=[0.9, 0.8]))
    assert (apart.estimate, apart.low, apart.high, apart.outcome) == (0, 0, 0, HOLDS)


def test_one_failure_is_a_failure_and_all_must_hold():
    one = verdicts.outcome(Test("fid", "a", "b", below=1.0), rows(a=[1.0, 1.0], b=[2.0, 2.0]))
    of = lambda *outcomes: verdicts.verdict([one._replace(outcome=o) for o in outcomes])  # noqa: E731
    assert of(HOLDS, HOLDS) == verdicts.CONFIRMED
    assert of(HOLDS, FAILS, OPEN) == verdicts.NOT_CONFIRMED
    assert of(HOLDS, OPEN) == of() == verdicts.UNDECIDED


def test_curves_are_compared_at_the_largest_cost_that_both_have():
    line = lambda scale: Curve({axis: np.array([0.0, 100.0]) * scale for axis in AXES}, np.array([4.0, 2.0]))  # noqa: E731
    cheap = line(1.0)._replace(cost=line(1.0).cost | {"flops": np.array([0.0, 50.0])})
    table = {"a": Row({}, {"fid": [cheap]}), "b": Row({}, {"fid": [line(1.0)]})}
    for axis, value in (("flops", 2 / 3), ("steps", 1.0)):  # b is at 3 after 50 FLOPs
        found = verdicts.outcome(Test("fid", "a", "b", below=1.0, at=axis), table)
        assert found.estimate == pytest.approx(value)


def test_a_test_without_a_bound_or_a_figure_is_an_error():
    with pytest.raises(ValueError, match="needs below or above"):
        verdicts.outcome(Test("fid", "a", "b"), rows(a=[1.0], b=[1.0]))
    with pytest.raises(ValueError, match="no figure 'kid'; there are fid"):
        verdicts.outcome(Test("kid", "a", "b", below=1.0), rows(a=[1.0], b=[1.0]))


def linear(params, batch, key):
    """A loss whose gradient is the mean of the batch's pixels, plus noise of standard deviation 2 from the key."""
    noise = 2 * jax.random.normal(key, params.shape)
    return params @ (batch.image.mean(axis=(0, 1, 2)) + noise)


def test_the_variance_of_a_gradient_is_that_between_batches():
    random = np.random.default_rng(0)
    images = random.normal(size=(50, 1, 1, 3)).astype(np.float32)
    ids = random.integers(50, size=(400, 8))
    params = jnp.zeros(3)
    quiet = lambda p, b, k: p @ b.image.mean(axis=(0, 1, 2))  # noqa: E731
    means = images[ids].mean(axis=(1, 2, 3))
    found = noise.gradient_variance(quiet, params, Batch(jnp.asarray(images)), ids)
    assert found == pytest.approx(means.var(axis=0, ddof=1).sum(), rel=1e-3)
    assert found == pytest.approx(images.var(axis=0).sum() / 8, rel=0.2)  # falls as 1/batch
    noisy = noise.gradient_variance(linear, params, Batch(jnp.asarray(images)), ids)
    assert noisy - found == pytest.approx(3 * 2**2, rel=0.2)
    with pytest.raises(ValueError, match="at least 2 batches, got 1"):
        noise.gradient_variance(quiet, params, Batch(jnp.asarray(images)), ids[:1])


def test_the_cut_batch_has_the_sparse_noise_and_fits_the_devices():
    assert noise.cut(64, 1.0, 4.0) == (16, 16.0)
    assert noise.cut(64, 1.0, 4.0, devices=8) == (16, 16.0)
    assert noise.cut(64, 1.0, 100.0, devices=8)[0] == 8  # never below one image a device
    assert noise.cut(64, 1.0, 0.5) == (64, 64.0)  # less noise than the dense one is chance


def test_a_sparse_gradient_is_as_noisy_as_a_dense_one_of_the_batch_that_is_found():
    """Elements with gradients of mean 0 and variance 1: a kept share of 1/4 of 64 is noise as of a quarter of them."""
    elements = np.random.default_rng(0).normal(size=(4000, 8, 8, 1)).astype(np.float32)
    supervision = sparse(0.75, exact=True)

    def loss(params, batch, key):
        keys = jax.random.split(key, len(batch.image))
        mask = supervision.sample(keys, batch.image.shape[1:])
        kept = (mask * batch.image).sum(axis=(1, 2, 3)) * supervision.normalise(mask, batch.image.shape[1:])
        return params[0] * kept.mean()

    def dense(params, batch, key):
        return params[0] * batch.image.mean()

    ids = np.random.default_rng(1).integers(4000, size=(600, 32))
    v = [noise.gradient_variance(f, jnp.zeros(1), Batch(jnp.asarray(elements)), ids) for f in (dense, loss)]
    assert noise.cut(32, v[0], v[1])[1] == pytest.approx(8, rel=0.2)


def test_supervised_elements_of_a_batch_are_counted():
    campaign = lambda name, arm: build_stages(Campaign(plans(name), Path(), 1).config(arm, 0))  # noqa: E731
    arms = {arm.name: arm for arm in plans("ssd_ratio").arms}
    count = lambda name: runner.supervised_elements(campaign("ssd_ratio", arms[name])[0].experiment)  # noqa: E731
    assert count("dense") == 64 * 192
    assert count("element 0.9") == pytest.approx(64 * 19.2, rel=1e-4)
    assert count("pixel 0.5") == pytest.approx(64 * 96, rel=1e-4)
    arm = next(arm for arm in plans("maskdm_compute").arms if arm.name == "patch 75%")
    masked, full = (runner.supervised_elements(s.experiment) for s in campaign("maskdm_compute", arm))
    assert (masked, full) == (64 * 16, 64 * 64)


def plans(name):
    return CLAIMS[name].plans["cpu"]


def test_arms_of_compose_cost_the_same(tmp_path):
    campaign = Campaign(plans("compose"), tmp_path, 1)
    arms = [
        arm for arm in plans("compose").arms if arm.name not in ("SSD", "debias")
    ]  # the baseline's network and data
    ends = [build_stages(campaign.config(arm, 0))[-1] for arm in arms]
    flops = np.array([stage.flops_at(stage.stop) for stage in ends])
    assert (np.abs(flops / flops[0] - 1) < 0.03).all(), flops / flops[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.CLAIM.name)
def test_a_claim_is_whole(module):
    claim = module.CLAIM
    assert claim.rule.startswith("confirmed where") and "not confirmed where" in claim.rule
    assert claim.name == module.__name__.rpartition(".")[2]
    for plan in claim.plans.values():
        names = [arm.name for arm in plan.arms]
        assert len(set(map(runner.slug, names))) == len(names) and plan.tests
        compared = [arm.name for arm in plan.arms if arm.compared]
        for test in plan.tests:
            assert {test.arm, test.other} <= set(compared)
        for place, arm in enumerate(plan.arms):  # what an arm needs is trained before it
            assert set(filter(None, (arm.source, arm.network, *(arm.matches or ())))) <= set(names[:place])
    assert 0 < claim.plans["cpu"].minutes <= 90


def test_overlays_merge_sections_and_replace_parts():
    config = ConfigDict({"model": {"name": "a", "width": 1, "kinds": {"x": {}}}, "steps": 1})
    overlay(config, {"model": {"width": 2}, "steps": 3})
    assert config.model.to_dict() == {"name": "a", "width": 2, "kinds": {"x": {}}} and config.steps == 3
    overlay(config, {"model": {"kinds": Whole({"y": {}})}})
    assert config.model.kinds.to_dict() == {"y": {}}
    overlay(config, {"model": {"name": "b"}})
    assert config.model.to_dict() == {"name": "b"}


def test_steps_are_counted_from_the_time_after_compiling():
    times = {50: 30.0, 100: 31.0, 150: 32.0, 200: 33.0}  # 20 ms a step, once it is compiled
    assert runner.steps_in(130.0, times, 1000) == 7000
    assert runner.steps_in(10.0, times, 100) == 500
    with pytest.raises(ValueError, match="three steps or more"):
        runner.steps_in(10.0, {50: 1.0, 100: 2.0}, 100)


def test_packed_images_come_back_as_they_were(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")
        files.append(buffer.getvalue())
    arrays = {}
    for split in packed.SPLITS:
        arrays |= dict(zip(packed.keys(split), packed.pack(files, np.arange(5)), strict=True))
    np.savez(tmp_path / "x.npz", **arrays)
    found = packed.cifar10(str(tmp_path / "x.npz"))
    for source in (found.train, found.heldout):
        records = source.fetch(np.arange(5))
        np.testing.assert_array_equal(records["image"], images)
        np.testing.assert_array_equal(records["label"], np.arange(5))
    for path, message in (("", "--data=PATH"), ("nowhere", "no such folder or file")):
        with pytest.raises(DataError, match=message):
            packed.cifar10(path)


RESULT = {
    "claim": "ssd_ratio",
    "question": "How many?",
    "verdict": "not confirmed",
    "budget": "cpu",
    "smoke": False,
    "seeds": 3,
    "tests": [{"statement": "fid: a / b < 1", "estimate": 1.2, "low": 1.1, "high": 1.3, "outcome": "fails"}],
    "provenance": {"device": "cpu", "created": "2026-01-02T03:04:05+00:00"},
}


def test_the_readme_holds_what_the_results_say(tmp_path, capsys):
    page, results = tmp_path / "README.md", tmp_path / "results"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    options = [f"--readme={page}", f"--results={results}"]
    readme.main(options)
    assert readme.EMPTY in page.read_text() and "old" not in page.read_text()
    readme.main([*options, "--check"])
    results.mkdir()
    (results / "ssd_ratio.json").write_text(json.dumps(RESULT))
    with pytest.raises(SystemExit) as stop:
        readme.main([*options, "--check"])
    assert stop.value.code == 1 and readme.EMPTY in page.read_text()
    readme.main(options)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "| not confirmed | fid: a / b < 1: 1.2 (1.1 to 1.3), fails | 3, cpu, 2026-01-02 |" in text
    readme.main([*options, "--check"])
    (results / "ssd_ratio.json").write_text(json.dumps(RESULT | {"smoke": True}))
    page.write_text("no markers")
    for message in ("smoke version", "needs the lines"):
        with pytest.raises(SystemExit) as stop:
            readme.main(options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
        (results / "ssd_ratio.json").unlink(missing_ok=True)


def test_figures_are_shown_with_their_interval_and_what_is_missing_as_a_dash():
    assert text.measured([1.0, 2.0, 3.0]) == "2 ± 2.5"
    assert text.measured([1.0]) == "1" and text.measured([]) == "–" and text.measured([1.0, "nan"]) == "–"
