"""Small data sets for the tests of this room."""

import io

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data import DATASETS, ArraySource
from tests.data import pictures
from tests.latent_folders import captioned, write_latents, write_tar


def numbered(n: int, shape: tuple[int, int, int] = (4, 5, 3), labels: bool = True) -> ArraySource:
    """n random images; the label of image i is i."""
    image = np.random.default_rng(n).integers(0, 256, (n, *shape), np.uint8)
    return ArraySource(image, np.arange(n, dtype=np.int32) if labels else None)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with the prepared TFDS sets ``even`` (PNGs of 6×8 pixels, 13 + 5) and ``mixed`` (two sizes, 2 + 1)."""
    from tensorflow_datasets import core, features

    class Even(core.GeneratorBasedBuilder):
        VERSION = core.Version("1.2.3")
        sizes, counts = ((6, 8),), {"train": 13, "test": 5}

        def _info(self):
            shape = (*self.sizes[0], 3) if len(self.sizes) == 1 else (None, None, 3)
            parts = {"image": features.Image(shape=shape), "label": features.ClassLabel(names=["cat", "dog", "owl"])}
            return core.DatasetInfo(builder=self, features=features.FeaturesDict(parts))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self.counts}

        def _generate_examples(self, split):
            for i in range(self.counts[split]):
                size = self.sizes[i % len(self.sizes)]
                pixels = np.random.default_rng([i, len(split)]).integers(0, 256, (*size, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                yield i, {"image": io.BytesIO(file.getvalue()), "label": i % 3}

    class Mixed(Even):
        sizes, counts = ((6, 8), (9, 5)), {"train": 2, "test": 1}

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Even, Mixed):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="session", params=sorted(DATASETS))
def dataset(request):
    """Every member of the table, the smallest of its kind."""
    folder = request.getfixturevalue("tmp_path_factory").mktemp("folder")
    options = {
        "folder": lambda: {"path": pictures.two_classes(folder), "size": 4, "crop": "random", "windows": 2},
        "latents": lambda: {"path": write_latents(folder / "latents", mirrored=True)},
        "tar": lambda: {"path": write_tar(folder / "a.tar", captioned(12)), "size": 4, "heldout": 4},
        "tfds": lambda: {"dataset": "even", "data_dir": request.getfixturevalue("prepared")},
    }
    return DATASETS[request.param](**options.get(request.param, dict)())
