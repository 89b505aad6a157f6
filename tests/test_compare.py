"""Workdirs with closed-form curves, whose factors are known, through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax import compare
from maskdiff_jax.evaluate import curves_runs
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.writers import JsonlWriter

METRIC = "heldout_ema/loss"
BASE = {"name": "dense", "seed": 0, "steps": 100, "visibility": {"name": "all"}, "data": {"name": "digits"}}


def workdir(path, loss=lambda s: 100 / s, flops=1.0, seconds=1.0, metric=METRIC, transfer=None, **config) -> Path:
    """A run of 100 steps as the trainer leaves it: costs every 5 steps, the metric every 10 from step 10 on."""
    write_json(path / "config.json", BASE | config)
    writer = JsonlWriter(path / "metrics.jsonl")
    for step in range(5, 101, 5):
        writer.write_scalars(step, {"images": 8 * step, "seconds": seconds * step, "flops": flops * step})
        if step % 10 == 0:
            writer.write_scalars(step, {metric: loss(step)})
    writer.close()
    if transfer is not None:
        write_json(path / "transfer.json", {"source": "pre"} | transfer)
    return path


def masked(path, loss=lambda s: 50 / s, flops=0.25, **options) -> Path:
    """At the dense run's best, 1 at step 100, after 50 steps, which cost a quarter of the FLOPs and twice the time."""
    config = {"name": "masked", "visibility": {"name": "patch", "ratio": 0.75}} | options
    return workdir(path, loss, flops, 2.0, **config)


def run(*arguments) -> tuple[int, dict]:
    """The exit status of the command in this process, and what it wrote as JSON."""
    argv = [str(argument) for argument in arguments]
    try:
        compare.main(argv)
    except SystemExit as stop:
        return int(stop.code or 0), {}
    return 0, json.loads((Path(argv[argv.index("--out") + 1]) / "compare.json").read_text())


def found(data, arm, other) -> dict:
    return next(pair for pair in data["result"]["pairs"] if (pair["arm"], pair["other"]) == (arm, other))


def factors(data, arm, other) -> list:
    return [found(data, arm, other)["axes"][axis]["factor"] for axis in ("steps", "flops", "seconds")]


@pytest.fixture
def text_only(monkeypatch):
    """Drawing is what takes the time."""
    monkeypatch.setattr(compare, "draw", lambda *_: b"PNG")


def test_report(tmp_path):
    """From another folder, in a process of its own, and without any device: none of JAX is used."""
    workdir(tmp_path / "runs" / "a")
    masked(tmp_path / "runs" / "b")
    command = [sys.executable, "-m", "maskdiff_jax.compare", "--runs", "runs/a", "runs/b", "--out=out/new"]
    environment = os.environ | {"JAX_PLATFORMS": "none", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out" / "new"
    assert sorted(path.name for path in out.iterdir()) == sorted(compare.FILES)
    assert done.stdout == (out / "compare.md").read_text()
    assert "Lower is better." in done.stdout and "No run inherited anything." in done.stdout
    assert "with 2× fewer steps (50 against 100), 8× fewer FLOPs (12.5 against 100) and as many seconds" in done.stdout
    data = json.loads((out / "compare.json").read_text())
    assert factors(data, "masked", "dense") == pytest.approx([2, 8, 1])
    assert factors(data, "dense", "masked") == [None] * 3
    assert data["settings"] == {"metric": METRIC, "better": "lower", "sunk": False}
    (entry,) = data["arms"]["dense"]
    assert (out / entry["workdir"]).resolve() == (tmp_path / "runs" / "a").resolve()
    assert not Path(entry["workdir"]).is_absolute() and entry["curve"]["flops"] == [*range(10, 101, 10)]
    with Image.open(out / "compare.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # every arm is in every panel
        third = picture.shape[1] // 3
        drawn = (abs(picture - colour).max(axis=-1) < 8).sum(axis=0)
        assert all(drawn[i * third : (i + 1) * third].sum() > 200 for i in range(3))


def test_wide_and_odd_curves_can_be_drawn(tmp_path):
    """Budgets of two magnitudes, a start at no cost, a constant, seeds, a value that is not finite."""
    runs = [
        workdir(tmp_path / "a", lambda s: "nan" if s == 50 else 0.0, metric="quality/recall"),
        workdir(tmp_path / "b", lambda s: 0.0, flops=900, seconds=900, metric="quality/recall", name="b|c", steps=5),
        workdir(tmp_path / "c", lambda s: 0.0, flops=900, metric="quality/recall", name="b|c", steps=5, seed=1),
    ]
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 0, "quality/recall": 0.0}\n')
    status, data = run("--runs", *runs, "--out", tmp_path / "out", "--metric=quality/recall")
    assert status == 0 and data["settings"]["better"] == "higher"
    assert data["arms"]["dense"][0]["curve"]["value"][4] == "nan"
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.size == (1950, 660)


def test_seeds_are_one_arm(tmp_path, text_only):
    """Losses 100/s and 200/s of two seeds, whose bests are 1 and 2, against 50/s and 75/s."""
    runs = [
        workdir(tmp_path / "a"),
        workdir(tmp_path / "b", lambda s: 200 / s, seed=1, log={"every": 7}, data={"name": "digits", "path": "x"}),
        masked(tmp_path / "c", evaluate={"images": 8}),
        masked(tmp_path / "d", lambda s: 75 / s, seed=1, name="masked again"),
    ]
    status, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert status == 0
    assert {label: len(arm) for label, arm in data["arms"].items()} == {"dense": 2, "masked": 2}
    assert data["result"]["best"]["dense"]["value"] == {
        "mean": 1.5,
        "half_width": pytest.approx(12.7062047 / 2),
        "seeds": [1, 2],
    }
    pair = found(data, "masked", "dense")
    hits = [30 + 10 * (50 / 30 - 1.5) / (50 / 30 - 50 / 40), 50]  # on the line from step 30 to 40; and 75/50
    np.testing.assert_allclose(pair["axes"]["steps"]["costs"], hits)
    np.testing.assert_allclose(pair["axes"]["steps"]["factor"], 100 / np.sqrt(hits[0] * hits[1]))
    assert (pair["reached"], pair["seeds"]) == (2, 2)
    assert "interval" not in " ".join(line for line in data["notes"] if "One seed" in line)
    assert any("differ in evaluate.images" in line for line in data["notes"])


def test_arms_of_one_name_are_told_apart(tmp_path, text_only):
    ratios = (0.5, 0.75, 0.75)
    runs = [
        workdir(tmp_path / f"{i}", visibility={"name": "patch", "ratio": ratio}, clip=i % 2, name="cut")
        for i, ratio in enumerate(ratios)
    ]
    _, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert list(data["arms"]) == ["cut (ratio=0.5, clip=0)", "cut (ratio=0.75, clip=1)", "cut (ratio=0.75, clip=0)"]
    _, data = run("--runs", *runs, "--out", tmp_path / "labelled", "--label", "half", "most", "most")
    assert {label: len(arm) for label, arm in data["arms"].items()} == {"half": 1, "most": 2}
    assert "Runs of most differ in more than the seed." in data["notes"]
    assert "Runs of most share a seed: its interval is too narrow." in data["notes"]


def test_one_arm_has_nothing_to_be_compared_with(tmp_path, text_only):
    runs = [workdir(tmp_path / f"{seed}", seed=seed) for seed in range(2)]
    status, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert status == 0 and data["result"]["pairs"] == [] and "All runs are seeds of one arm" in data["verdict"][0]


def test_origins_count_as_config(tmp_path, text_only):
    """Runs from two seeds of one pre-training are seeds; from another pre-training they are not."""
    cost = {"steps": 10, "images": 80, "flops": 5.0, "seconds": 20}
    for i, ratio in enumerate((0.5, 0.5, 0.9)):
        masked(tmp_path / f"pre{i}", seed=i, visibility={"name": "patch", "ratio": ratio})
    runs = [
        workdir(tmp_path / f"{i}", seed=i, init_from=str(tmp_path / f"pre{i}"), transfer=cost, name="tuned")
        for i in range(3)
    ]
    _, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert [len(arm) for arm in data["arms"].values()] == [2, 1]
    assert all(label.startswith("tuned (init_from=") for label in data["arms"])
    (tmp_path / "pre1" / "config.json").unlink()  # what is not known is not taken for the same
    _, data = run("--runs", *runs, "--out", tmp_path / "unknown")
    assert [len(arm) for arm in data["arms"].values()] == [1, 1, 1]


def test_a_run_that_starts_from_itself_ends(tmp_path, text_only):
    """A workdir may have been used anew since."""
    runs = [workdir(tmp_path / "a"), workdir(tmp_path / "b", init_from=str(tmp_path / "b"), name="loop")]
    status, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert status == 0 and "loop starts from another run at a cost that is not known, and not counted." in data["notes"]


def test_inherited_cost(tmp_path, text_only, capsys):
    """Counted by default: 50 + 100 steps, 12.5 + 25 FLOPs, 100 + 60 seconds against 100 of each."""
    cost = {"steps": 100, "images": 800, "flops": 25.0, "seconds": 60.0}
    runs = [workdir(tmp_path / "a"), masked(tmp_path / "b", transfer=cost, init_from="gone")]
    _, data = run("--runs", *runs, "--out", tmp_path / "counted")
    assert factors(data, "masked", "dense") == pytest.approx([100 / 150, 100 / 37.5, 100 / 160])
    assert data["result"]["equal"]["steps"]["arms"]["masked"]["mean"] == "nan"  # at 100 steps it is pre-training
    counted = capsys.readouterr().out
    assert "Costs include what a run inherited" in counted and "100 steps, 25 FLOPs, 60 seconds |" in counted
    _, data = run("--runs", *runs, "--out", tmp_path / "sunk", "--sunk")
    assert factors(data, "masked", "dense") == pytest.approx([2, 8, 1])
    sunk = capsys.readouterr().out
    assert "Costs leave out (--sunk) what a run inherited" in sunk and "60 seconds, left out |" in sunk


def test_a_resumed_run_counts_once(tmp_path, text_only):
    """Of the lines of one step the last is right, and half a line at the end is not read."""
    runs = [workdir(tmp_path / "a"), masked(tmp_path / "b")]
    lines = runs[1] / "metrics.jsonl"
    content = lines.read_text().splitlines(keepends=True)
    stale = [json.dumps({"step": s, METRIC: 1e-9, "seconds": 3.0 * s, "flops": 9e9 + s}) + "\n" for s in (30, 40)]
    lines.write_text("".join([*content[:4], *stale, *content[4:]]) + '{"step": 105, "hel')
    _, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert factors(data, "masked", "dense") == pytest.approx([2, 8, 1])


def test_more_may_be_better(tmp_path, text_only):
    """An accuracy by its name, anything else by --higher; the other way round the worst would win."""
    for metric, flag in (("quality/class_accuracy", ()), ("score", ("--higher",))):
        runs = [workdir(tmp_path / metric / "a", lambda s: -100 / s, metric=metric)]
        runs.append(masked(tmp_path / metric / "b", lambda s: -50 / s, metric=metric))
        _, data = run("--runs", *runs, "--out", tmp_path / metric / "out", "--metric", metric, *flag)
        assert factors(data, "masked", "dense") == pytest.approx([2, 8, 1])
        assert "Higher is better." in (tmp_path / metric / "out" / "compare.md").read_text()


def test_seconds_of_other_devices_are_noted(tmp_path, text_only):
    runs = [workdir(tmp_path / "a"), masked(tmp_path / "b")]
    for path, devices in zip(runs, (1, 8), strict=True):
        write_json(path / "report.json", {"provenance": {"device": "cpu", "devices": devices}})
    _, data = run("--runs", *runs, "--out", tmp_path / "out")
    assert "Seconds are of different devices: 1 x cpu, 8 x cpu." in data["notes"]
    assert data["arms"]["masked"][0]["provenance"]["devices"] == 8


def break_line(path):
    lines = path / "metrics.jsonl"
    lines.write_text(lines.read_text().replace('{"step": 20', '"step": 20'))


UNKNOWN = {"steps": None, "flops": 1}  # of a network of others nobody knows what it had cost


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (lambda path: (path / "config.json").unlink(), (), "b is not a run: it has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), (), "config.json is not valid JSON"),
        (lambda path: (path / "config.json").write_text("[]"), (), "config.json is not a JSON object"),
        (lambda path: (path / "metrics.jsonl").unlink(), (), "b is not a run: it has no metrics.jsonl"),
        (break_line, (), "metrics.jsonl, line 4: not a JSON object with a step"),
        (lambda path: (path / "metrics.jsonl").write_text('{"loss": 1}\n'), (), "line 1: not a JSON object"),
        (lambda path: (path / "metrics.jsonl").write_text('{"step": 1}\n[1]\n'), (), "line 2: not a JSON object"),
        (lambda path: (path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\n'), (), "line 2: not a JSON object"),
        (lambda path: (path / "metrics.jsonl").write_text(""), (), f"no metric '{METRIC}'; there are none"),
        (lambda path: None, ("--metric=heldout",), f"no metric 'heldout'; there are {METRIC}"),
        (lambda path: write_json(path / "transfer.json", UNKNOWN), (), "does not tell the steps and seconds"),
        (lambda path: None, ("--label", "x"), "--label: a name for each of the 2 runs, got 1"),
        (lambda path: None, ("--out",), "expected one argument"),
        (lambda path: None, ("--mertic=x",), "unrecognized arguments: --mertic=x"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, damage, arguments, message):
    runs = [workdir(tmp_path / "a"), workdir(tmp_path / "b")]
    damage(runs[1])
    assert run("--runs", *runs, "--out", tmp_path / "out", *arguments)[0] == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_runs_and_a_free_folder(tmp_path, capsys):
    a, b = workdir(tmp_path / "a"), workdir(tmp_path / "b")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.md").write_text("mine")
    for runs, out in (((a,), "new"), ((a, a), "new"), ((a, b, tmp_path / "b" / "."), "new"), ((a, b), "out")):
        assert run("--runs", *runs, "--out", tmp_path / out)[0] == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --out: " if out == "out" else "error: --runs: ") and error.count("\n") == 1
    assert (tmp_path / "out" / "compare.md").read_text() == "mine" and not (tmp_path / "new").exists()


def test_seeds_may_differ_in_what_a_run_may_change():
    from maskdiff_jax.run import FREE

    assert set(curves_runs.FREE) == {"seed", *FREE}
