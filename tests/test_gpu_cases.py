"""The cases for a GPU: the search for a batch, what is said of measured seconds, and a run on a bare machine."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import lab as labs
from benchmarks.gpu.cases import CASES
from benchmarks.gpu.report import Bar
from benchmarks.gpu.search import Budget, best_batch
from benchmarks.peers.jobs import Ready
from benchmarks.peers.timing import Taken
from maskdiff_jax.train.files import read_json

ROOT = Path(__file__).resolve().parents[1]


def searched(rates, first=64, seconds=1.0, given=100.0):
    """A search where each batch size takes ``seconds`` and those without a rate do not fit."""
    now = [0.0]
    budget = Budget(given / 60, clock=lambda: now[0])

    def rate(batch):
        now[0] += seconds
        if batch not in rates:
            raise RuntimeError(f"out of memory at {batch}\nand more")
        return rates[batch]

    return best_batch(first, rate, lambda: budget.until(0.5))


def test_a_batch_is_doubled_while_that_helps():
    found = searched({64: 100.0, 128: 110.0, 256: 111.0, 512: 500.0})
    assert (found.batch, found.images_per_second, found.out_of_time) == (256, 111.0, False)
    assert [trial.batch for trial in found.tried] == [64, 128, 256]
    assert searched({64: 100.0, 128: 90.0}).batch == 64


def test_a_batch_that_does_not_fit_is_left_or_halved():
    found = searched({64: 100.0, 128: 110.0})
    assert found.batch == 128 and found.tried[-1].why == "out of memory at 256"
    found = searched({16: 40.0, 8: 30.0})
    assert [trial.batch for trial in found.tried] == [64, 32, 16] and found.batch == 16
    with pytest.raises(RuntimeError, match=r"^no batch runs; of 1: out of memory at 1$"):
        searched({})


def test_a_search_keeps_to_its_time():
    """50 seconds of 100: after two trials of 20 there is none for a third."""
    found = searched({64 * 2**i: 100.0 * 2**i for i in range(5)}, seconds=20.0)
    assert (found.batch, found.out_of_time) == (128, True)


class Sides:
    """Both sides with known seconds for an image, by way, on a card of that name."""

    def __init__(self, card, seconds, flops=1e12):
        self.card, self.seconds, self.flops = card, seconds, flops
        self.images = {}

    def prepare(self, kind, entry, calls, seconds):
        if kind.endswith("compiled") and "compiled" not in self.seconds:
            raise TimeoutError("prepare training compiled took more than 9 s")
        batch = (entry[0] if type(entry) is tuple else entry).batch
        if batch > 512:
            raise RuntimeError("out of memory")
        names = {
            "training": ["ours"],
            "sampling": ["ours"],
            "masked": ["0.0", "0.5", "0.75", "0.9"],
            "resident": ["constant", "data"],
        }
        ways = names.get(kind, [kind.rpartition(" ")[2]])
        self.images |= dict.fromkeys(ways, batch * calls)
        return Ready(tuple(ways), {}, {})

    def take(self, way):
        return Taken(self.seconds[way] * self.images[way], 0.0)

    def call(self, function, *arguments):
        if function == "flops":
            return self.flops * (1 - arguments[0].masked)
        about = {"device": self.card, "created": "today", "versions": {"jax": "1", "torch": "2"}, "torch": "2"}
        return {"ceiling": 800e12, "peak_bytes": 1, "about": about}[function]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(case, sides, minutes=8)`` -> (whether the bars hold, the JSON file, the table)."""
    monkeypatch.setattr(labs, "PAUSE", 0)

    def run(name, sides, minutes=8.0):
        monkeypatch.setattr(labs.Lab, "side", lambda self, name, alone=False: contextlib.nullcontext(sides))
        lab = labs.Lab("cuda", minutes, torch=True)
        with contextlib.closing(lab):
            held = command.run(name, CASES[name], lab, tmp_path)
        return held, read_json(tmp_path / f"{name}.json"), (tmp_path / f"{name}.md").read_text()

    return run


def test_dense_training_is_judged_by_the_peak_and_the_peer(run):
    """1 TFLOP an image at 500 images/s: 500 of 989 and of 800 TFLOP/s; the peer takes 1.1 times as long."""
    sides = Sides("NVIDIA H200", {"ours": 1 / 500, "eager": 1 / 300, "compiled": 1.1 / 500})
    held, found, table = run("dit_b2", sides)
    assert held == [True, True]
    assert found["mfu"]["ours"] == pytest.approx({"of_peak": 500 / 989, "of_product": 500 / 800})
    assert found["ratio"] == pytest.approx({"median": 1.1, "low": 1.1, "high": 1.1, "coverage": 0.9614}, abs=1e-3)
    assert found["ways"]["ours"]["batch"] == 256 and found["rounds"] == 12
    assert "| ours | 256 | 500 | 500 | 50.6 % | 62.5 % |" in table and "1.10 (1.10 to 1.10)" in table
    sides.seconds |= {"ours": 1 / 390, "compiled": 1 / 400}
    held, _, table = run("dit_b2", sides)
    assert held == [False, False] and table.count("**does not hold**") == 2


def test_another_card_is_not_judged(run):
    seconds = {"ours": 1 / 500, "eager": 1 / 300, "compiled": 1 / 400}
    held, found, table = run("dit_xl2", Sides("Some card", seconds))
    assert held == [None, None] and found["mfu"]["ours"]["of_peak"] is None and "not judged here" in table


def test_a_peer_that_is_not_ready_in_time_is_left_out(run):
    held, found, table = run("dit_b2", Sides("NVIDIA H200", {"ours": 1 / 500, "eager": 1 / 300}))
    assert held == [True, None] and list(found["ways"]) == ["ours"]
    assert "PyTorch was not ready: prepare training compiled took more than 9 s." in table


def test_hidden_tokens_are_judged_by_the_flops_that_they_save(run):
    """Half of the time at half of the FLOPs is all of it; 2.4 times as fast at a quarter is 0.6."""
    sides = Sides("NVIDIA H100", {"ours": 1.0, "0.0": 1.0, "0.5": 0.5, "0.75": 1 / 2.4, "0.9": 0.1 / 0.9})
    held, found, _ = run("masked", sides)
    assert held == [True, False, True]
    assert [bar["value"] for bar in found["bars"]] == pytest.approx([1.0, 0.6, 0.9])


def test_data_on_the_device_are_judged_by_the_ready_batch(run):
    held, found, _ = run("cifar_step", Sides("NVIDIA H200", {"ours": 1.0, "constant": 1.0, "data": 1.02}))
    assert held == [True] and found["ratio"]["median"] == pytest.approx(1.02)
    assert run("cifar_step", Sides("NVIDIA H200", {"ours": 1.0, "constant": 1.0, "data": 1.04}))[0] == [False]


def test_sampling_counts_both_halves_of_a_doubled_batch(run):
    """50 steps of two forward passes, each a third of training."""
    seconds = {"ours": 0.1, "eager": 0.3, "compiled": 0.2}
    held, found, _ = run("sampling", Sides("NVIDIA H200", seconds, flops=3e9))
    assert held == [] and found["flops_per_image"] == pytest.approx(50 * 2 * 1e9)
    assert found["ratio"]["median"] == pytest.approx(2.0)


def test_a_case_ends_with_its_time(run):
    """The first round is always taken."""
    seconds = {"ours": 1 / 500, "eager": 1 / 300, "compiled": 1 / 400}
    _, found, table = run("dit_b2", Sides("NVIDIA H200", seconds), minutes=1e-9)
    assert found["rounds"] == 1 and "Time ended the measurement after 1 of 12 rounds." in table
    assert "search for the best batch of 'ours' ended with its time, at 256" in table


def test_bars():
    assert Bar("a", 1.0, least=1.0).holds is True and Bar("a", 0.9, least=1.0).holds is False
    assert Bar("a", 1.03, most=1.03).holds is True and Bar("a", 1.04, most=1.03).holds is False
    assert Bar("a", None, least=1.0).holds is None
    assert Bar("a", 0.5, least=0.4, aim=0.6).text() == "- a: 0.500, at least 0.4, aiming at 0.6: **holds**"


def test_arguments(tmp_path, capsys):
    options = command.parse([f"--out={tmp_path}", "--model=remat=dots", "--model=scan=True"])
    assert (
        options.only == tuple(CASES)
        and options.minutes == 8
        and dict(options.model)
        == {
            "remat": "dots",
            "scan": True,
        }
    )
    for wrong, line in {
        "--only=dit_b3": "no case dit_b3: choose from dit_b2, dit_xl2, masked, cifar_step, sampling",
        "--minutes=0": "'0' is not a number of minutes above 0",
        "--model=remat": "'remat' is not KEY=VALUE",
    }.items():
        with pytest.raises(SystemExit):
            command.parse([f"--out={tmp_path}", wrong])
        assert line in capsys.readouterr().err


BARE = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
gone = set(sys.argv[2].split(","))
hidden = lambda name, *rest: None if name.partition(".")[0] in gone else find(name, *rest)
importlib.machinery.PathFinder.find_spec = hidden
from benchmarks.gpu import __main__ as command, our_ways
from benchmarks.gpu.lab import Lab
command.run("sampling", command.CASES["sampling"], Lab("cpu", tiny=True, here=True), command.Path(sys.argv[1]))
setup = Lab("cpu", tiny=True).of(command.CASES["cifar_step"].setup)
data = our_ways.on_device(setup, 16)
assert data.ingest(next(data.batches), data.table).image.shape == (2, 8, 8, 3)
found = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
assert not gone & found, gone & found
"""


def test_nothing_beside_jax_flax_and_optax_is_needed(tmp_path):
    """A case runs, and the data of another one are made ready, where the trainer's other packages cannot be found."""
    gone = "PIL,array_record,beartype,clu,grain,importlib_resources,jaxtyping,matplotlib,ml_collections,"
    gone += "orbax,safetensors,sklearn,tensorboardX,tensorflow,tensorflow_datasets,torch,tqdm"
    arguments = [sys.executable, "-c", BARE, str(tmp_path), gone]
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=quick)
    assert done.returncode == 0, done.stderr
    assert "PyTorch is not here: ours alone." in (tmp_path / "sampling.md").read_text()
