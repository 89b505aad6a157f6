"""TFDS's real CIFAR-10 builder on its own archive, rebuilt from real images, without TensorFlow."""

import sys

import numpy as np
import pytest
from tensorflow_datasets.core.download import resource
from tensorflow_datasets.image_classification import cifar

from maskdiff_jax.data import tfds
from maskdiff_jax.data.prepare import prepare
from tests.data.builders import archive

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN, TEST = 40, 8


@pytest.fixture(scope="module")
def images(data_dir):
    """The first real images of the prepared CIFAR-10 and their labels, by split."""
    data = tfds("cifar10", data_dir)
    parts = {"train": data.train.fetch(np.arange(TRAIN)), "test": data.heldout.fetch(np.arange(TEST))}
    return {split: (records["image"], records["label"]) for split, records in parts.items()}


@pytest.fixture
def cached(images, tmp_path):
    """A data_dir whose downloads hold CIFAR-10's own archive, with the few images above."""
    lines = {
        split: [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(*records, strict=True)]
        for split, records in images.items()
    }
    files = {f"data_batch_{i + 1}.bin": b"".join(lines["train"][i * TRAIN // 5 :][: TRAIN // 5]) for i in range(5)}
    files |= {"test_batch.bin": b"".join(lines["test"]), "batches.meta.txt": "\n".join([*CLASSES, ""]).encode()}
    ((url, known),) = cifar.Cifar10.url_infos.items()
    path = tmp_path / "downloads" / "cifar10" / resource.get_dl_fname(url, known.checksum)
    path.parent.mkdir(parents=True)
    archive(path, {f"cifar-10-batches-bin/{name}": content for name, content in files.items()})
    resource.write_info_file(url, path, "cifar10", "cifar-10-binary.tar.gz", known)
    return tmp_path


def test_cifar10_prepares_itself(cached, images, data_dir):
    """From its archive, on first use: the same pixels, labels, names, features and version; then nothing to do."""
    data = tfds("cifar10", cached)
    assert data.class_names == CLASSES and data.shape == (32, 32, 3)
    for source, (image, label) in zip((data.train, data.heldout), images.values(), strict=True):
        records = source.fetch(np.arange(len(source)))  # TFDS shuffles by its keys
        ours, theirs = _by_content(records["image"], records["label"]), _by_content(image, label)
        assert ours == theirs
    folder = cached / "cifar10" / "3.0.2"
    for name in ("features.json", "label.labels.txt"):
        assert (folder / name).read_text() == (data_dir / "cifar10" / "3.0.2" / name).read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare("cifar10", cached) == prepare("cifar10:3.0.2", cached) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "tensorflow" not in sys.modules


def _by_content(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
