"""Where metrics go: a text file, TensorBoard, the log.

The method names and arguments are those of `clu.metric_writers` (which needs TensorFlow to be imported), so one of its
writers can stand in a `MultiWriter`. Scalars are numbers or arrays of one element; images are [n, h, w, c], float in
[0, 1] or uint8. A writer ignores what it cannot carry.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from maskdiff_jax.train.files import naming, plain, write_atomically

Scalars = Mapping[str, Any]

FLUSH_SECONDS = 120.0  # until TensorBoard sees at the latest what was written


class Writer:
    """The protocol, and a writer that ignores everything."""

    def write_scalars(self, step: int, scalars: Scalars) -> None: ...

    def write_images(self, step: int, images: Mapping[str, Any]) -> None: ...

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None: ...

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None: ...

    def write_hparams(self, hparams: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class JsonlWriter(Writer):
    """One JSON object per line: {"step": 100, "loss": 0.12, ...}. Scalars and texts only.

    Writes of one step are gathered into one line, which is written when the step changes, on `flush` and on `close`;
    so two writes of a step with a flush between them make two lines, and `read_jsonl` merges them. NaN and infinities,
    which JSON lacks, are the strings "nan", "inf" and "-inf", and ``float(value)`` reads either kind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._pending: dict[str, Any] = {}
        _drop_torn_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def truncate_after(self, step: int) -> None:
        """Drop every line of a later step, as a run that resumes from ``step`` is about to write them again."""
        self.flush()
        self._file.close()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomically(self.path, "".join(line for line in lines if json.loads(line)["step"] <= step).encode())
        self._file = self.path.open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        self._add(step, {name: number(value) for name, value in scalars.items()})

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._add(step, texts)

    def _add(self, step: int, items: Mapping[str, Any]) -> None:
        if self._pending.get("step", step) != step:
            self.flush()
        self._pending |= {"step": int(step), **items}

    def flush(self) -> None:
        with naming(self.path):
            if self._pending:
                self._file.write(json.dumps(plain(self._pending), allow_nan=False) + "\n")
                self._pending = {}
            self._file.flush()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            with naming(self.path):
                self._file.close()


class TensorBoardWriter(Writer):
    """TensorBoard event files, without TensorFlow; what an earlier run wrote from ``purge_step`` on is hidden.

    Every event is written by the caller. In tensorboardX's own `SummaryWriter` a thread does it, which ends at the
    first error, as of a full disk; the queue to it then blocks the training for ever.
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._directory, self._summary, self._event = directory, summary, event_pb2.Event
        with naming(directory):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._file = event_file_writer.EventsWriter(str(Path(directory) / "events"))
        self._flushed = time.monotonic()
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(purge_step, session_log=start)

    def _write(self, step: int, **content: Any) -> None:
        with naming(self._directory):
            self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._write(step, summary=self._summary.scalar(name, number(value)))

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for name, value in images.items():
            self._write(step, summary=self._summary.image(name, np.asarray(value), dataformats="NHWC"))

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        for name, value in arrays.items():
            bins: Any = (num_buckets or {}).get(name, 30)
            self._write(step, summary=self._summary.histogram(name, np.asarray(value), bins))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, value in texts.items():
            self._write(step, summary=self._summary.text(name, value))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        # As text: the hyper-parameter tab would want the final metrics at the same time.
        self.write_texts(0, {"hparams": f"```\n{json.dumps(plain(hparams), indent=2)}\n```"})

    def flush(self) -> None:
        self._flushed = time.monotonic()
        with naming(self._directory):
            self._file.flush()

    def close(self) -> None:
        with naming(self._directory):
            self._file.close()


class LogWriter(Writer):
    """One log line per write: "step 100  loss 0.1234  grad_norm 1.20"."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        logging.info("step %d  %s", step, "  ".join(f"{name} {number(value):.4g}" for name, value in scalars.items()))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, value in texts.items():
            logging.info("step %d  %s: %s", step, name, value)


class MultiWriter(Writer):
    """Passes everything on to several writers, in order."""

    def __init__(self, writers: Sequence[Any]):
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        scalars = jax.device_get(dict(scalars))  # once for all
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_images(step, images)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        for writer in self._writers:
            writer.write_histograms(step, arrays, num_buckets)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # all are closed, even where one fails
            for writer in self._writers:
                stack.callback(writer.close)


def clu_writer() -> Callable[..., Any]:
    """`clu.metric_writers.SummaryWriter`, TensorFlow's own; it has no purge, later events hide earlier ones.

    Raises ValueError, in one line, where TensorFlow is not installed.
    """
    try:
        from clu import metric_writers
    except ImportError as error:
        raise ValueError("clu's writers need TensorFlow: pip install tensorflow, or choose tensorboardx") from error
    return lambda directory, purge_step=None: metric_writers.SummaryWriter(str(directory))


# Who writes tensorboard/: the name -> a function that finds the writer's factory (directory, purge_step).
BOARDS: dict[str, Callable[[], Callable[..., Any]]] = {"tensorboardx": lambda: TensorBoardWriter, "clu": clu_writer}


def open_writers(workdir: str | Path, resumed_from: int | None = None, board: str = "tensorboardx") -> MultiWriter:
    """The log, ``workdir/metrics.jsonl`` and ``workdir/tensorboard``; nothing where this is not the first process.

    ``board`` is a name of `BOARDS`. A run that resumes from a step drops what was written of later ones.
    """
    if jax.process_index() != 0:
        return MultiWriter(())
    open_board = BOARDS[board]()
    jsonl = JsonlWriter(Path(workdir) / "metrics.jsonl")
    if resumed_from is not None:
        jsonl.truncate_after(resumed_from)
    purge_step = None if resumed_from is None else resumed_from + 1
    return MultiWriter([LogWriter(), jsonl, open_board(Path(workdir) / "tensorboard", purge_step)])


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, those of one step merged, in the order of the file. A torn last line is left out."""
    merged: dict[int, dict[str, Any]] = {}
    for line in _whole_lines(Path(path).read_text(encoding="utf-8")):
        row = json.loads(line)
        merged.setdefault(row["step"], {}).update(row)
    return list(merged.values())


def number(value: Any) -> int | float:
    """A Python number of a number or an array of one element, bit for bit."""
    return np.asarray(value).item()


def _whole_lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines(keepends=True) if line.endswith("\n"))


def _drop_torn_line(path: Path) -> None:
    """A process that was killed may have left half a line; the next write would be glued to it."""
    if path.exists() and not (text := path.read_text(encoding="utf-8")).endswith("\n"):
        write_atomically(path, "".join(_whole_lines(text)).encode())
