"""Builders of TFDS that the tests of preparing run, and what serves their archive."""

import http.server
import io
import tarfile
import time

import numpy as np
from tensorflow_datasets import core, features
from tensorflow_datasets.image_classification import cifar

SIZES = {"train": 6, "test": 3}  # images of `Served`


def quiet(self, format, *args):
    pass


class Quiet(http.server.SimpleHTTPRequestHandler):
    log_message = quiet


class Served(core.GeneratorBasedBuilder):
    """One archive of arrays, from ``url``: grey, nested and colour images, of which one has no fixed size."""

    VERSION = core.Version("1.0.0")
    url = ""
    pause = 0.0

    def _info(self):
        grey, colour = features.Image(shape=(4, 5, 1)), features.Image(shape=(None, None, 3))
        parts = {"image": colour, "more": {"grey": grey}, "label": features.ClassLabel(num_classes=3)}
        return core.DatasetInfo(builder=self, features=features.FeaturesDict(parts))

    def _split_generators(self, dl_manager):
        folder = dl_manager.download_and_extract(self.url)
        return {split: self._generate_examples(folder / f"{split}.npy") for split in ("train", "test")}

    def _generate_examples(self, path):
        for i, colour in enumerate(np.load(path)):
            time.sleep(self.pause)
            yield i, {"image": colour[: 3 + i % 2], "more": {"grey": colour[:4, :, :1]}, "label": i % 3}


class Tensorial(core.GeneratorBasedBuilder):
    """Calls TensorFlow beyond its files."""

    VERSION = core.Version("1.0.0")

    def _info(self):
        return core.DatasetInfo(builder=self, features=features.FeaturesDict({"image": features.Image()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": cifar.tf.image.decode_jpeg(b"")}


class Jpegs(Tensorial):
    """Arrays that TFDS stores as JPEG."""

    def _info(self):
        image = features.Image(encoding_format="jpeg")
        return core.DatasetInfo(builder=self, features=features.FeaturesDict({"image": image}))

    def _generate_examples(self):
        yield 0, {"image": np.zeros((8, 8, 3), np.uint8)}


def archive(path, contents):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
