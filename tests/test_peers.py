"""What the comparison with PyTorch says of measured seconds, and the arguments of its command; needs no torch."""

import os
import time

import numpy as np
import pytest

from benchmarks.peers import jobs, report, setups, timing
from benchmarks.peers.__main__ import main, parse


def test_arguments(tmp_path, capsys):
    options = parse([f"--out={tmp_path}"])
    assert options.only == tuple(setups.SETUPS) and options.rounds == 10
    assert parse([f"--out={tmp_path}", "--only=sampling,dit_s4"]).only == ("sampling", "dit_s4")
    for wrong, line in {
        "--only=dit_s4,unet": "no case unet: choose from dit_s4, uvit_s, dit_s4_masked, sampling",
        "--rounds=0": "'0' is not a whole number of at least 1",
        "--device=tpu": "choose from",
    }.items():
        with pytest.raises(SystemExit):
            parse([f"--out={tmp_path}", wrong])
        assert line in capsys.readouterr().err


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^benchmarks.peers needs torch: pip install"):
        main([f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_tokens_that_a_case_sees():
    seen = {name: (setup.tokens, setup.kept) for name, setup in setups.SETUPS.items()}
    assert seen == {"dit_s4": (64, 64), "uvit_s": (256, 256), "dit_s4_masked": (256, 64), "sampling": (64, 64)}


def took(*seconds):
    return [timing.Taken(wall, wall / 2) for wall in seconds]


def test_turns_change_their_order():
    order = []

    def way(name):
        order.append(name)
        return timing.Taken(len(order), 0.0)

    taken = timing.alternate({name: lambda name=name: way(name) for name in "abc"}, rounds=3, pause=0)
    assert "".join(order) == "abccbaabc"
    assert {name: [one.wall for one in rounds] for name, rounds in taken.items()} == {
        "a": [1, 6, 7],
        "b": [2, 5, 8],
        "c": [3, 4, 9],
    }


def test_ratios_are_of_one_round():
    """The machine gets three times slower between rounds, and ours stays 1.25 times as fast."""
    ours = [1.0, 2.0, 3.0, 1.5, 2.5, 1.2]
    ratio = timing.faster(ours, [1.25 * taken for taken in ours])
    assert ratio == pytest.approx((1.25, 1.25, 1.25, 1 - 2 / 2**6))


def test_the_interval_of_known_ratios():
    """Of 10 values the 2nd and the 9th: 1 - 2·(1 + 10)/1024, the binomial tail; of 9 too, of 8 and fewer the range."""
    ours, theirs = [1.0] * 10, [0.1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 90.0]
    assert timing.faster(ours, theirs) == pytest.approx((1.45, 1.1, 1.8, 1 - 22 / 1024))
    assert timing.faster(ours[:9], theirs[:9]) == pytest.approx((1.4, 1.1, 1.7, 1 - 20 / 512))
    assert timing.faster(ours[:8], theirs[:8]) == pytest.approx((1.35, 0.1, 1.7, 1 - 2 / 256))
    assert timing.faster(ours[:3], theirs[:3]) == pytest.approx((1.1, 0.1, 1.2, 0.75))
    assert timing.faster([2.0], [1.0]) == (0.5, 0.5, 0.5, 0)
    for pair in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match=r"^ratios need the same rounds of both, got \d and \d$"):
            timing.faster(*pair)


@pytest.mark.parametrize("rounds", [5, 10, 20])
def test_the_interval_covers_as_it_says(rounds):
    """Ratios of a skewed distribution with median 1: the share of intervals that hold it."""
    theirs = np.random.default_rng(0).lognormal(0, 0.7, (4000, rounds))
    found = [timing.faster([1.0] * rounds, list(row)) for row in theirs]
    share = np.mean([ratio.low <= 1 <= ratio.high for ratio in found])
    assert share == pytest.approx(found[0].coverage, abs=4 * np.sqrt(0.06 / 4000))
    assert rounds < 6 or found[0].coverage >= 0.95


def test_a_row_counts_the_faster_peer():
    """By the clock; the processor's seconds are of the same way."""
    row = report.row(
        "A", 32, 5, {"ours": took(1.0, 1.1, 0.9), "eager": took(2, 2.2, 1.8), "compiled": took(1.2, 1.1, 1.8)}
    )
    assert row["peer"] == "compiled"
    assert row["ratio"] == row["cpu_ratio"] == pytest.approx({"median": 1.2, "low": 1.0, "high": 2.0, "coverage": 0.75})
    assert row["images_per_second"] == pytest.approx({"ours": 160, "eager": 80, "compiled": 32 * 5 / 1.2})


def test_tables_show_what_did_not_run():
    case = report.row("A", 4, 1, {"ours": took(*[2.0] * 6), "eager": took(*[1.0] * 6)})
    case |= {"failures": {"compiled": "Error: no compiler"}}
    product = report.row("2×3×4", 0, 1, {"ours": took(*[1e-6] * 6), "eager": took(*[2e-6] * 6)})
    product |= {"gflops": report.gflops((2, 3, 4), product), "failures": {}}
    assert product["gflops"] == pytest.approx({"ours": 0.048, "eager": 0.024})
    about = {"name": "A chip", "threads": 2, "torch": "9", "dtype": "float32", "rounds": 6}
    text = report.format_tables({**about, "device": "cpu"}, {"jax": "7"}, [case], [product])
    assert "| A | 4 | 2.0 | 4.0 | - | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) |" in text
    assert "A, compiled: Error: no compiler" in text and "interval of 97%" in text
    text = report.format_tables({**about, "device": "cuda"}, {"jax": "7"}, [case], [product])
    assert "| A | 4 | 2.0 | 4.0 | - | 0.50 (0.50 to 0.50) |\n" in text


def test_a_way_that_cannot_run_is_left_out():
    def broken():
        raise TypeError("no compiler\nfor this machine")

    ready = jobs.warm_up({"eager": lambda: None, "compiled": broken}, frozenset({"compiled"}))
    assert ready.ways == ("eager",) and ready.failures == {"compiled": "TypeError: no compiler for this machine"}
    with pytest.raises(TypeError):
        jobs.warm_up({"eager": broken}, frozenset({"compiled"}))


def test_a_process_starts_in_its_environment(monkeypatch):
    """And leaves that of its parent as it was."""
    seen = {}

    class Process:
        def start(self):
            seen.update(os.environ)

        join = terminate = lambda self, *seconds: None

    side = jobs.Side("peer", "cuda", 0.25, environment={"MASKDIFF_TEST": "1"})
    side.process = Process()
    monkeypatch.setenv("JAX_PLATFORMS", "of the parent")
    before = dict(os.environ)
    with side:
        assert dict(os.environ) == before
    assert seen == before | {
        "JAX_PLATFORMS": "cpu",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25",
        "MASKDIFF_TEST": "1",
    }


def test_seconds_of_a_way():
    taken = jobs.take(lambda: time.sleep(0.05))
    assert 0.05 <= taken.wall < 5 and 0 <= taken.cpu < 0.04
