"""A folder of images: broken files, classes, the split, windows, and what is remembered of a scan."""

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data import Batches, DataError, flip, folder, scan
from maskdiff_jax.data.decode import square
from tests.data import pictures
from tests.data.pictures import BROKEN, noise, save


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return pictures.mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture
def plain(tmp_path):
    return pictures.two_classes(tmp_path / "plain")


def everything(source):
    return source.fetch(np.arange(len(source)))


def test_broken_files_are_left_out_and_named(mixed, capsys):
    data = folder(mixed, 16)
    assert len(data.train) + len(data.heldout) == 197 and data.class_names == ("a", "b", "c")
    images = np.concatenate([everything(source)["image"] for source in (data.train, data.heldout)])
    assert images.shape == (197, 16, 16, 3) and images.std(axis=(1, 2, 3)).min() > 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("warning: 3 of 200 images")
    assert line.endswith(f": {', '.join(BROKEN)}\n")


def test_too_many_broken_files_are_an_error(plain):
    for i in range(12):
        (plain / f"ant/broken_{i:02}.png").touch()
    with pytest.raises(DataError) as error:
        folder(plain, 4)
    assert "12 of 52 images" in str(error.value) and "max_corrupt=0.05" in str(error.value)
    assert str(error.value).endswith("ant/broken_08.png, ant/broken_09.png and 2 more")
    assert len(folder(plain, 4, max_corrupt=12 / 52).train) > 0


def test_recorded_windows_and_controls_reproduce_the_batch(tmp_path):
    """The corners that a batch records, and the augmentation's controls, applied to the files by hand."""
    pictures.two_classes(tmp_path, 12, height=16, width=44)
    data, augment = folder(tmp_path, 8, crop="random", windows=3), flip()
    assert len(data.train) % 3 == 0 and set(everything(data.heldout)) == {"image", "label", "original"}
    batch = Batches(data.train, 32, seed=0, augment=augment).at(2)
    seen = augment.apply(batch["image"], batch["controls"])
    for i, index in enumerate(batch["index"]):
        with Image.open(tmp_path / data.train.paths[index // 3]) as file:
            whole = np.asarray(file.resize((22, 8), Image.Resampling.BICUBIC))
        window = whole[batch["top"][i] :, batch["left"][i] :][:8, :8]
        np.testing.assert_array_equal(seen[i], window[:, ::-1] if batch["controls"]["flip"][i] else window)
    left = everything(data.train)["left"].reshape(-1, 3)
    assert ((left // 5) == np.arange(3)).all()  # of 0..14, each window has its third
    assert len(np.unique(left)) > 6


def test_pickled_and_threaded_reads_are_the_same(mixed):
    source = folder(mixed, 8).train
    whole, copy = everything(source), pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as threads:
        for part in threads.map(lambda i: copy.fetch(np.array([i, 3, i])), range(20)):
            np.testing.assert_array_equal(part["image"][1], whole["image"][3])
            np.testing.assert_array_equal(part["image"][0], part["image"][2])
    np.testing.assert_array_equal(everything(copy)["image"], whole["image"])
    assert copy.fingerprint == source.fingerprint


def test_fingerprint(plain, tmp_path):
    """It sees files and options, but not where the folder is or when it was written."""
    ours = folder(plain, 4).fingerprint
    moved = shutil.copytree(plain, tmp_path / "moved", copy_function=shutil.copyfile)
    assert folder(moved, 4).fingerprint == ours
    options = [
        {"channels": 1},
        {"labels": "none"},
        {"heldout": 3},
        {"crop": "random"},
        {"crop": "random", "windows": 2},
    ]
    others = [folder(moved, 4, **option).fingerprint for option in options] + [folder(moved, 5).fingerprint]
    (moved / "ant/0.png").rename(moved / "ant/zero.png")
    others.append(folder(moved, 4).fingerprint)
    save(moved / "ant/zero.png", noise(0, 20, 20))
    others.append(folder(moved, 4).fingerprint)
    assert len({ours, *others}) == len(others) + 1


def test_more_files_do_not_reshuffle_the_split(plain):
    before = folder(plain, 4, heldout=0.3)
    assert 3 <= len(before.heldout) <= 21  # 12 of 40, three standard deviations
    for i in range(100, 140):
        save(plain / f"ant/{i}.png", noise(i, 5, 5))
    after = folder(plain, 4, heldout=0.3)
    assert set(before.heldout.paths) <= set(after.heldout.paths) and set(before.train.paths) <= set(after.train.paths)
    assert len(folder(plain, 4, heldout=7).heldout) == 7


def test_something_is_held_out_and_every_class_keeps_an_image(plain):
    assert len(folder(plain, 4, heldout=1e-9).heldout) == 1
    assert set(everything(folder(plain, 4, heldout=38).train)["label"]) == {0, 1}


def test_labels(plain):
    data = folder(plain, 4)
    assert (data.classes, data.class_names) == (2, ("ant", "bee"))
    for source in (data.train, data.heldout):
        named = [data.class_names[label] for label in everything(source)["label"]]
        assert named == [path.partition("/")[0] for path in source.paths]
    for unlabelled in (folder(plain, 4, labels="none"), folder(plain / "ant", 4)):
        assert unlabelled.classes == 0 and set(everything(unlabelled.train)) == {"image", "original"}


def test_links(plain):
    """Loops end, links to images elsewhere count, and a link to nowhere is a broken file."""
    (plain / "ant/loop").symlink_to(plain)
    (plain / "self").symlink_to(plain)
    (plain / "crow").symlink_to(plain / "bee/deep")
    (plain / "ant/nowhere.png").symlink_to(plain / "gone.png")
    data = folder(plain, 4)
    assert data.class_names == ("ant", "bee", "crow") and len(data.train) + len(data.heldout) == 60


def _empty(root):
    shutil.rmtree(root)
    root.mkdir()


def _broken_class(root):
    (root / "cow").mkdir()
    (root / "cow/0.png").touch()


BAD = {
    "no path": (None, {"path": None}, "path: name the folder"),
    "missing": (shutil.rmtree, {}, "no such folder"),
    "empty": (_empty, {}, r"no file in it ends in \.jpg, "),
    "no image of that kind": (None, {"extensions": (".bmp",)}, r"ends in \.bmp$"),
    "empty class": (lambda root: (root / "cow").mkdir(), {}, "without a readable image in .*: cow$"),
    "broken class": (_broken_class, {}, "without a readable image in .*: cow$"),
    "loose image": (
        lambda root: save(root / "x.png", noise(0, 4, 4)),
        {},
        "class folders, and x.png beside them",
    ),
    "size": (None, {"size": 0}, "size=0"),
    "heldout": (None, {"heldout": 1.5}, "heldout=1.5"),
    "all held out": (None, {"heldout": 39}, "heldout=39: 40 images in 2 classes can spare 38"),
    "labels": (None, {"labels": "names"}, "labels='names'"),
    "crop": (None, {"crop": "center"}, "crop='center': choose from centre, random"),
    "windows": (None, {"windows": 0}, "windows=0"),
    "channels": (None, {"channels": 4}, "channels=4"),
    "max_corrupt": (None, {"max_corrupt": 5}, "max_corrupt=5"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(case, plain):
    change, options, message = BAD[case]
    if change:
        change(plain)
    with pytest.raises(DataError, match=message) as error:
        folder(**{"path": plain, "size": 4, **options})
    assert "\n" not in str(error.value)


def test_large_folders_are_scanned_once(plain, tmp_path, monkeypatch):
    """The second opening decodes what was broken, no more; a change starts over. Nothing is written to the folder."""
    (plain / "ant/broken.png").touch()
    before = sorted(plain.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "REMEMBERED", 10)
    monkeypatch.setattr(scan, "SHOWN", 10)
    tried = []
    monkeypatch.setattr(scan, "square", lambda path, size: tried.append(path) or square(path, size))
    first, again = folder(plain, 4), folder(plain, 4)
    assert len(tried) == 41 + 1 and first.fingerprint == again.fingerprint
    os.utime(plain / "ant/0.png", ns=(0, 0))
    assert folder(plain, 4).fingerprint == first.fingerprint and len(tried) == 41 + 1 + 41
    assert sorted(plain.rglob("*")) == before


def test_a_file_that_vanishes_is_named(plain):
    source = folder(plain, 4).train
    (plain / source.paths[5]).unlink()
    with pytest.raises(DataError, match=f"{source.paths[5]} in .* no longer"):
        source.fetch(np.arange(8))
