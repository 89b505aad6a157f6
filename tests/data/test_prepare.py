"""TFDS's own builders, run without TensorFlow: downloads, arrays of every kind, and every kind of trouble."""

import functools
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets import core
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar

from maskdiff_jax.data import DataError, tfds
from maskdiff_jax.data.prepare import prepare
from tests.data.builders import SIZES, Quiet, Served, archive, quiet


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The arrays of `Served`, whose archive is served from ``tmp_path``/served; ``tmp_path``/data is a data_dir."""
    folder = tmp_path / "served"
    folder.mkdir()
    arrays = {split: np.random.default_rng(n).integers(0, 256, (n, 5, 5, 3), np.uint8) for split, n in SIZES.items()}
    contents = {}
    for split, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array)
        contents[f"{split}.npy"] = file.getvalue()
    archive(folder / "served.tar.gz", contents)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(Served, "url", f"http://127.0.0.1:{server.server_port}/served.tar.gz")
        (tmp_path / "data").mkdir()
        yield arrays
        server.shutdown()


def test_download_and_arrays_of_every_kind(served, tmp_path):
    """TFDS's own download and extraction; nested, grey and colour arrays come back bit for bit."""
    folder = prepare("served", tmp_path / "data")
    assert folder == tmp_path / "data" / "served" / "1.0.0"
    source = core.read_only_builder.builder_from_directory(folder).as_data_source("train")
    colours = {record["image"].tobytes(): record for record in source}
    assert len(colours) == SIZES["train"]
    for i, colour in enumerate(served["train"]):
        record = colours[colour[: 3 + i % 2].tobytes()]
        np.testing.assert_array_equal(record["more"]["grey"], colour[:4, :, :1])
        assert record["label"] == i % 3 and record["image"].shape == (3 + i % 2, 5, 3)


def test_an_interrupted_preparation_leaves_nothing(served, tmp_path, monkeypatch):
    """Ctrl-C while examples are written: no folder, and the rerun does not download again."""
    real = Served._generate_examples

    def interrupted(self, path):
        yield next(real(self, path))
        raise KeyboardInterrupt

    monkeypatch.setattr(Served, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("served", tmp_path / "data")
    assert list((tmp_path / "data" / "served").iterdir()) == []
    with pytest.raises(DataError, match=r"served/1\.0\.0/ not found.*prepared sets there: none$"):
        tfds("served:1.0.0", tmp_path / "data", size=2, download=False)
    monkeypatch.setattr(Served, "_generate_examples", real)
    (tmp_path / "served" / "served.tar.gz").unlink()
    assert len(tfds("served", tmp_path / "data", size=2).train) == SIZES["train"]


def test_an_interrupted_download_stops(tmp_path, monkeypatch):
    """Ctrl-C while the archive arrives: at once, and no thread goes on reading it."""
    gone = threading.Event()

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
            try:
                for _ in range(2000):
                    self.wfile.write(bytes(100_000))
                    time.sleep(0.01)
            except OSError:
                gone.set()

        log_message = quiet

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(Served, "url", f"http://127.0.0.1:{server.server_port}/endless.tar.gz")
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
        with pytest.raises(KeyboardInterrupt):
            prepare("served", tmp_path)
        signal.signal(signal.SIGINT, handler)
        assert gone.wait(10)
        server.shutdown()
    assert list((tmp_path / "served").iterdir()) == []


KILLED = """
import sys
from tests.data.builders import Served
from maskdiff_jax.data.prepare import prepare
Served.url, Served.pause = sys.argv[1], 60.0
prepare("served", sys.argv[2])
"""


def test_a_killed_preparation_leaves_nothing_that_looks_prepared(served, tmp_path):
    """kill -9 while examples are written; the next one is not disturbed by what is left."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, Served.url, str(tmp_path / "data")]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    here = tmp_path / "data" / "served"
    deadline = time.monotonic() + 60
    while not (here.is_dir() and list(here.iterdir()) and _extracted(tmp_path)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = here.iterdir()
    assert left.name.startswith("incomplete.")
    (left / "dataset_info.json").write_text("{}")  # the last file before the folder gets its name
    with pytest.raises(DataError, match=r"prepared sets there: none$"):
        tfds("served", tmp_path / "data", size=2, download=False)
    assert len(tfds("served", tmp_path / "data", size=2).train) == SIZES["train"]


def test_what_fails(served, tmp_path, monkeypatch):
    """One line: what was looked for, where, what is there, and why it could not be prepared."""
    monkeypatch.setattr(sys.modules[prepare.__module__], "_RETRIES", 0)
    monkeypatch.setattr(Served, "url", Served.url.replace("served.tar", "gone.tar"))
    looked = r"served/\*/ not found in data_dir=.*/data'; prepared sets there: none; .*cannot be prepared in .*/data'"
    with pytest.raises(DataError, match=rf"{looked}: .*gone\.tar\.gz.*404") as failure:
        tfds("served", tmp_path / "data")
    assert "\n" not in str(failure.value)
    monkeypatch.setattr(Served, "url", "http://127.0.0.1:9/served.tar.gz")  # nobody listens
    with pytest.raises(DataError, match=rf"{looked}: .*Connection refused"):
        tfds("served", tmp_path / "data")
    with pytest.raises(DataError, match="TFDS has no data set of that name"):
        tfds("no_such_set", tmp_path / "data")
    with pytest.raises(DataError, match="cannot be loaded at version 7"):
        prepare("served:7.0.0", tmp_path / "data")
    with pytest.raises(DataError, match="there is no folder"):
        tfds("served", tmp_path / "dtaa")
    assert not (tmp_path / "dtaa").exists()


def test_a_wrong_checksum_is_refused(served, tmp_path, monkeypatch):
    known = {Served.url: checksums.UrlInfo(size=core.utils.Size(7), checksum="00", filename="served.tar.gz")}
    monkeypatch.setattr(Served, "url_infos", known)
    with pytest.raises(DataError, match="has wrong checksum"):
        prepare("served", tmp_path / "data")


@pytest.mark.parametrize("dataset, call", [("tensorial", r"tf\.image"), ("jpegs", r"tf\.\w+")])
def test_tensorflow_is_an_extra(tmp_path, dataset, call):
    before = cifar.tf
    with pytest.raises(DataError, match=rf"needs TensorFlow \({call} .*pip install 'maskdiff_jax\[prepare\]'"):
        prepare(dataset, tmp_path)
    assert cifar.tf is before and "tensorflow" not in sys.modules


def test_an_array_of_another_shape_is_refused(served, tmp_path, monkeypatch):
    wrong = {"image": np.zeros((2, 2, 3), np.uint8), "more": {"grey": np.zeros((9, 9, 1), np.uint8)}, "label": 0}
    monkeypatch.setattr(Served, "_generate_examples", lambda self, path: iter([(0, wrong)]))
    with pytest.raises(DataError, match=r"uint8 \[9, 9, 1\], declared uint8 \[4, 5, 1\]"):
        prepare("served", tmp_path / "data")


def test_another_process_may_finish_first(served, tmp_path, monkeypatch):
    """Both write; the second to finish takes the set of the first."""
    real, there = Served._generate_examples, tmp_path / "data" / "served" / "1.0.0"

    def overtaken(self, path):
        yield from real(self, path)
        if path.name == "test.npy" and not there.exists():
            shutil.copytree(self.data_path, there)

    monkeypatch.setattr(Served, "_generate_examples", overtaken)
    assert prepare("served", tmp_path / "data") == there
    assert [path.name for path in there.parent.iterdir()] == ["1.0.0"]


def _extracted(folder):
    return any((folder / "data" / "downloads" / "extracted").glob("TAR_GZ*"))
