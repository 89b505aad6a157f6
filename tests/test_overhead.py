"""The overhead benchmark drives the real trainer: what it times are whole ways of taking the same steps."""

import pytest

from benchmarks import overhead


def test_each_way_takes_its_steps_and_saves_where_it_says(tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(overhead, "MODEL", {"name": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2})
    seconds = overhead.measure(16, rounds=1, steps=4, folder=tmp_path)
    assert set(seconds) == {"step", *overhead.BARS} and all(len(s) == 1 and s[0] > 0 for s in seconds.values())
    (saved,) = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert int(saved) in (2 + 2, 2 + 4 + 2, 2 + 8 + 2)  # in the middle of its own steps, wherever its turn was


def test_ratios_are_of_one_round():
    seconds = {"step": [1.0, 2.0, 4.0], "logging": [1.02, 2.04, 4.08], "logging and a checkpoint": [1.1, 2.2, 4.4]}
    found = overhead.summarise(seconds)
    assert found["logging"]["ratio"] == pytest.approx(1.02) and found["logging"]["holds"]
    assert found["logging and a checkpoint"]["low"] == pytest.approx(1.1)
    assert not found["logging and a checkpoint"]["holds"]
    assert "| logging | 1.020 | 1.020 to 1.020 | 1.03 | yes |" in overhead.format_table(found, 0.2)
