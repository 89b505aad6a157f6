"""What is written can be read back, by others too."""

import json
import struct
import sys
import types
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from maskdiff_jax.train.writers import (
    JsonlWriter,
    LogWriter,
    MultiWriter,
    TensorBoardWriter,
    Writer,
    open_writers,
    read_jsonl,
)


def strict(line: str) -> dict:
    """JSON without Python's NaN and Infinity."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(line, parse_constant=refuse)


def test_one_valid_json_object_per_step(tmp_path):
    writer = JsonlWriter(tmp_path / "new" / "metrics.jsonl")
    writer.write_scalars(1, {"loss": jnp.float32(0.1), "count": np.int64(3)})
    writer.write_scalars(1, {"rate": 2.5})
    writer.write_texts(1, {"note": "line\nbreak é"})
    writer.write_scalars(2, {"loss": float("nan"), "high": np.inf, "low": -np.inf})
    writer.close()
    rows = [strict(line) for line in writer.path.read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": float(np.float32(0.1)), "count": 3, "rate": 2.5, "note": "line\nbreak é"},
        {"step": 2, "loss": "nan", "high": "inf", "low": "-inf"},
    ]
    assert np.isnan(float(rows[1]["loss"])) and float(rows[1]["low"]) == -np.inf
    assert read_jsonl(writer.path) == rows


def test_lines_of_one_step_merge_on_reading(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    for name in ("loss", "held_out"):
        writer.write_scalars(1, {name: 1.0})
        writer.flush()
    writer.close()
    assert len(writer.path.read_text().splitlines()) == 2
    assert read_jsonl(writer.path) == [{"step": 1, "loss": 1.0, "held_out": 1.0}]


def test_a_resumed_run_leaves_no_contradicting_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    for step in range(1, 6):
        writer.write_scalars(step, {"loss": step})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3, 4, 5]
    writer = JsonlWriter(path)
    writer.truncate_after(3)
    writer.write_scalars(4, {"loss": 40})
    writer.close()
    assert [strict(line) for line in path.read_text().splitlines()] == [
        {"step": step, "loss": loss} for step, loss in [(1, 1), (2, 2), (3, 3), (4, 40)]
    ]


def read_events(folder) -> list:
    """The events of TensorBoard files: records of length (8 bytes), checksum (4), content, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def test_tensorboard(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(5, {"loss": jnp.float32(0.25)})
    writer.write_images(5, {"samples": np.linspace(0, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)})
    writer.write_histograms(5, {"weights": np.arange(10.0)}, {"weights": 5})
    writer.write_texts(5, {"note": "hello"})
    writer.write_hparams({"optimizer": {"lr": 0.1}})
    writer.flush()
    writer.close()
    values = {value.tag: (event.step, value) for event in read_events(tmp_path) for value in event.summary.value}
    assert (values["loss"][0], values["loss"][1].simple_value) == (5, 0.25)
    assert values["samples"][1].image.height == 4 and values["samples"][1].image.encoded_image_string[1:4] == b"PNG"
    assert values["weights"][1].histo.num == 10 and values["weights"][1].histo.max == 9
    assert values["note/text_summary"][1].tensor.string_val == [b"hello"]
    assert b'"lr": 0.1' in values["hparams/text_summary"][1].tensor.string_val[0]


def test_log(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "info", lambda form, *args: lines.append(form % args))
    writer = LogWriter()
    writer.write_scalars(3, {"loss": np.float32(0.123456), "bad": float("nan"), "seen": 40})
    writer.write_texts(3, {"note": "hello"})
    assert lines == ["step 3  loss 0.1235  bad nan  seen 40", "step 3  note: hello"]


class Recorder(Writer):
    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def write_scalars(self, step, scalars):
        self.calls.append((step, scalars))

    def close(self):
        self.calls.append("close")
        if self.fails:
            raise OSError("full")


def test_multi_writer_reaches_all_and_closes_all():
    writers = [Recorder(), Recorder(fails=True), Recorder()]
    multi = MultiWriter(writers)
    multi.write_scalars(1, {"a": jnp.float32(2)})
    multi.write_images(1, {})
    multi.write_histograms(1, {})
    multi.write_texts(1, {})
    multi.write_hparams({})
    multi.flush()
    with pytest.raises(OSError, match="full"):
        multi.close()
    assert [writer.calls for writer in writers] == [[(1, {"a": 2.0}), "close"]] * 3


def test_open_writers_resumes(tmp_path):
    for resumed_from, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        writers = open_writers(tmp_path, resumed_from)
        for step in steps:
            writers.write_scalars(step, {"loss": step + 10 * (resumed_from or 0)})
        writers.close()
    assert [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 23, 24]
    starts = [event.step for event in read_events(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert starts == [3]


def test_clu_writers_stand_behind_the_same_protocol(tmp_path, monkeypatch):
    """Every call of ours is one that clu's writer takes; without TensorFlow one line says what to do."""
    import clu

    with pytest.raises(ValueError, match="need TensorFlow"):
        monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
        monkeypatch.delattr(clu, "metric_writers", raising=False)
        open_writers(tmp_path / "without", board="clu")

    class SummaryWriter:  # the signatures of clu 0.0.12
        calls: ClassVar[list] = []

        def __init__(self, logdir):
            self.calls.append(("open", logdir))

        def write_scalars(self, step, scalars):
            self.calls.append(("scalars", step, dict(scalars)))

        def write_images(self, step, images):
            self.calls.append(("images", step, sorted(images)))

        def flush(self):
            self.calls.append(("flush",))

        def close(self):
            self.calls.append(("close",))

    stand_in = types.ModuleType("clu.metric_writers")
    stand_in.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "clu.metric_writers", stand_in)
    monkeypatch.setattr(clu, "metric_writers", stand_in, raising=False)
    writers = open_writers(tmp_path / "with", board="clu")
    writers.write_scalars(3, {"loss": 0.5})
    writers.write_images(3, {"samples": np.zeros((1, 2, 2, 3), np.uint8)})
    writers.close()
    opened, *rest = SummaryWriter.calls
    assert opened == ("open", str(tmp_path / "with" / "tensorboard"))
    assert rest == [("scalars", 3, {"loss": 0.5}), ("images", 3, ["samples"]), ("close",)]
