"""``--mode=encode``: images to latents, to a trained network, to pictures; interrupted; and what is refused."""

import json
import os
import re
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

import maskdiff_jax
from maskdiff_jax import encode as encoding
from maskdiff_jax.data import digits, latents
from maskdiff_jax.data.pixels import to_float
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.weights.autoencoder import load_autoencoder
from tests.cli import TINY, here
from tests.latent_folders import captioned, tiny_vae, write_tar

SOURCE = (
    "--mode=encode",
    "--config=configs/digits_sparse.py",
    "--config.data.name=latents",
    "--config.encode.data.tint=True",
    "--config.encode.data.limit=40",
    "--config.encode.data.heldout=24",
    "--config.encode.batch=8",
    "--config.encode.shard=16",
)
TRAIN = (
    *TINY,
    "--config.data.name=latents",
    "--config.schedule.warmup=1",
    "--config.batch=8",
    "--config.model.patch=2",
    "--config.steps=2",
    "--config.sample.num=8",
    "--config.evaluate.batch=8",
    "--config.evaluate.images=16",
    "--config.evaluate.judge.name=none",
)
pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_vae(tmp_path_factory.mktemp("vae") / "vae")


def encode(folder, vae, *more):
    return here(*SOURCE, f"--config.data.path={folder}", f"--config.encode.vae={vae}", *more)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, vae):
    """40 tinted digits, 24 held out, with the latents of the mirrored."""
    folder = tmp_path_factory.mktemp("encoded") / "latents"
    assert encode(folder, vae, "--config.encode.flip=True") == 0
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_records_are_the_posteriors_of_the_images(encoded, vae):
    images, found = digits(tint=True, limit=40, heldout=24), latents(encoded)
    autoencoder, params = load_autoencoder(vae)
    posterior = jax.jit(autoencoder.encode)
    assert (len(found.train), len(found.heldout)) == (40, 24)
    assert found.shape == (4, 4, 16) and found.image_shape == (8, 8, 3) and found.classes == 10
    for ours, theirs in ((found.train, images.train), (found.heldout, images.heldout)):
        everything = np.arange(len(ours))
        records, originals = ours.fetch(everything), theirs.fetch(everything)
        np.testing.assert_array_equal(records["label"], originals["label"])
        pixels = to_float(originals["image"])
        views = [np.concatenate(posterior(params, x), axis=-1) for x in (pixels, pixels[:, :, ::-1])]
        np.testing.assert_allclose(records["image"], np.concatenate(views, axis=-1), rtol=2e-3, atol=2e-3)


def raised():
    raise KeyboardInterrupt


def pressed():
    """Ctrl-C, as the terminal sends it; where the tests run in the background, Python was started without a handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)  # never so long


@pytest.mark.parametrize("stop_after, interrupt", [(1, raised), (5, pressed)])
def test_interrupted_in_the_middle_it_ends_with_the_same_bytes(
    encoded, vae, tmp_path, monkeypatch, stop_after, interrupt
):
    """After its first batch, in the first file; and after its fifth, when two files are finished."""
    folder, calls = tmp_path / "latents", []

    def counted(parts, progress, done):
        for part in parts:
            calls.append(done)
            yield part
            if len(calls) == stop_after:
                interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_counted", counted)
        assert encode(folder, vae, "--config.encode.flip=True") == 130
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
    assert len(before) == stop_after // 2 and not list(folder.glob(".*")) and not (folder / "index.json").exists()
    assert encode(folder, vae, "--config.encode.flip=True", "--config.encode.batch=16") == 0
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert files(folder).keys() == files(encoded).keys()
    for name, data in files(encoded).items():
        assert name == "index.json" or files(folder)[name] == data
    ours, theirs = (json.loads((f / "index.json").read_text())["splits"] for f in (folder, encoded))
    assert ours == theirs


def test_a_finished_folder_is_left_as_it_is(encoded, vae, capsys):
    before = {path: path.stat().st_mtime_ns for path in encoded.iterdir()}
    assert encode(encoded, vae, "--config.encode.flip=True", "--config.encode.batch=3") == 0
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in encoded.iterdir()} == before


def test_a_file_that_was_removed_is_made_again(encoded, vae, tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    for name, data in files(encoded).items():
        (folder / name).write_bytes(data)
    (folder / "train-00001-of-00003.array_record").unlink()
    assert encode(folder, vae, "--config.encode.flip=True") == 0
    assert files(folder) == files(encoded)


def test_a_cut_file_is_named(encoded, vae, tmp_path, capsys):
    """Of a finished folder by its size, of an unfinished one once the others are made."""
    folder = tmp_path / "latents"
    folder.mkdir()
    for name, data in files(encoded).items():
        (folder / name).write_bytes(data[:-100] if name.startswith("train-00001") else data)
    assert encode(folder, vae, "--config.encode.flip=True") == 2
    one_line(capsys, "train-00001-of-00003.array_record has", "remove it")
    index = json.loads((folder / "index.json").read_text())
    del index["splits"]
    (folder / "encoding.json").write_text(json.dumps(index))
    (folder / "index.json").unlink()
    assert encode(folder, vae, "--config.encode.flip=True") == 2
    assert "train-00001-of-00003.array_record is cut or broken: remove it" in capsys.readouterr().err
    assert not (folder / "index.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--config.encode.flip=False"], r"of another config: fields: .*; mirrored: true in the folder, false now"),
        (
            ["--config.encode.flip=True", "--config.encode.data.limit=30"],
            r"data.limit: 40 in the folder, 30 now",
        ),
    ],
)
def test_another_config_is_refused(encoded, vae, capsys, options, message):
    assert encode(encoded, vae, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def one_line(capsys, *parts):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(part in error for part in parts), error


def test_points_are_not_encoded(vae, tmp_path, capsys):
    plain = [argument for argument in SOURCE if "encode.data" not in argument]
    where = (f"--config.data.path={tmp_path / 'latents'}", f"--config.encode.vae={vae}")
    assert here(*plain, *where, "--config.encode.data.name=swissroll") == 2
    one_line(capsys, "encode.data", "no images of 8 bits")


def test_other_files_are_not_touched(vae, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert encode(tmp_path, vae) == 2
    one_line(capsys, "config.data.path", "exists and is no folder of latents")
    assert files(tmp_path) == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("--config.encode.data.tint=False",), ("encode.vae", "encodes images of 3 channels, not 1")),
        (("--config.encode.data.name=digit",), ("encode.data.name", "did you mean 'digits'?")),
        (("--config.encode.vae=/nowhere",), ("encode.vae", "/nowhere")),
        (("--config.encode.vae=",), ("encode.vae", "name the folder")),
        (("--config.encode.text=/nowhere.npz",), ("encode.text", "/nowhere.npz")),
        (("--config.encode.batch=0",), ("encode.batch", "at least 1")),
        (("--config.data.name=digits",), ("config.data", "'latents'")),
        (("--config.encode.dtype=float16",), ("encode.vae", "float16")),
    ],
)
def test_bad_input_is_one_line(vae, tmp_path, capsys, arguments, parts):
    folder = tmp_path / "latents"
    assert encode(folder, vae, *arguments) == 2
    one_line(capsys, *parts)
    assert not folder.exists()


def test_from_images_to_pictures(tmp_path, capsys, one_device):
    """Encode, train, sample and evaluate, with classes and captions, of which the embeddings are in a file.

    While the autoencoder is elsewhere nothing is drawn; once it is named, or back, it decodes.
    """
    vae, folder, run, out = (tmp_path / name for name in ("vae", "latents", "run", "samples.png"))
    tiny_vae(vae)
    options = {"name": "tar", "path": write_tar(tmp_path / "a.tar", captioned(40)), "size": 8, "heldout": 16}
    plain = [argument for argument in SOURCE if "encode.data" not in argument]
    source = (*plain, *(f"--config.encode.data.{key}={value}" for key, value in options.items()))
    where = (f"--config.data.path={folder}", f"--config.encode.vae={vae}")
    assert here(*source, *where) == 2
    one_line(capsys, "config.encode.text", "captions=False")
    rng = np.random.default_rng(0)
    text = {"text": rng.standard_normal((40, 3, 5)), "mask": rng.random((40, 3)) < 0.7, "pooled": rng.random((40, 6))}
    np.savez(tmp_path / "short.npz", text=text["text"][:39])
    assert here(*source, *where, f"--config.encode.text={tmp_path / 'short.npz'}") == 2
    one_line(capsys, "embeddings of 39 captions, and there are 40 images")
    np.savez(tmp_path / "text.npz", **text)
    assert here(*source, *where, f"--config.encode.text={tmp_path / 'text.npz'}") == 0
    found = latents(folder)
    np.testing.assert_array_equal(found.heldout.fetch(np.arange(16))["text_mask"], text["mask"][24:])
    np.testing.assert_array_equal(found.train.fetch(np.array([7]))["pooled"], text["pooled"][[7]].astype(np.float16))

    vae.rename(tmp_path / "moved")
    drawn = ("--config.model.name=mmdit", "--config.log.sample_every=2", "--config.evaluate.num=8")
    assert here(*TRAIN, *drawn, f"--config.data.path={folder}", f"--workdir={run}") == 0
    assert "nothing is drawn" in capsys.readouterr().out and not list((run / "samples").glob("step*"))
    assert np.isfinite(json.loads((run / "report.json").read_text())["heldout"]["loss"])
    named = ("--config=configs/digits_sparse.py", f"--config.data.vae={tmp_path / 'moved'}")
    assert here("--mode=sample", f"--workdir={run}", "--num=9", "--labels=1", f"--out={out}", *named) == 0
    with np.load(out.with_suffix(".npz")) as arrays:
        images = arrays["images"]
    assert images.shape == (9, 8, 8, 3) and images.dtype == np.uint8 and images.std() > 1
    with Image.open(out) as picture:
        assert picture.mode == "RGB"
    model = maskdiff_jax.load(run, vae=tmp_path / "moved")
    np.testing.assert_allclose(model.sample(9, labels=[1]).astype(int), images, atol=1)  # in another call
    with pytest.raises(ConfigError, match=r"there is no encoder in .*text\.npz"):
        model.sample(captions=["a cat"])

    (tmp_path / "moved").rename(vae)
    assert here("--mode=evaluate", f"--workdir={run}") == 0
    assert json.loads((run / "report.json").read_text())["nearest_train_distance"] > 0
    assert (run / "samples" / "nearest.png").exists()
