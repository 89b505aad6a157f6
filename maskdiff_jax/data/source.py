"""What a data set is: two random-access sources of uint8 images or of latents, and what identifies them.

A new data set is one function that returns a `Dataset`, and its line in `DATASETS`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from maskdiff_jax.data.augment import Augment
from maskdiff_jax.types import Codec, CondShape


class DataError(ValueError):
    """A data set is missing, unreadable, or not of the form that training needs."""


class Source(Protocol):
    """A fixed collection of images of one size, read by index.

    ``fetch(indices [b]) -> {"image": uint8 [b, h, w, c], "label": int32 [b]}`` in the order asked for, repeats allowed;
    "label" is absent where the data have none, and images may be float32 in the library's units instead. A source that
    resizes adds "original", int32 [b, 2]: height and width before that. Embedded captions are "text" [b, l, d],
    "text_mask" bool [b, l] and "pooled" [b, p]. More records may be added.
    ``fingerprint`` differs where the records differ. Called from several threads; pickled where batches are loaded by
    worker processes. No jax in here.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]: ...


class Latents(NamedTuple):
    """What is particular to records [h, w, k] that are latents: an image is encoded already.

    ``codec``: a record, as ``augment`` leaves it, -> the space of diffusion, and from there to what a decoder takes.
    ``augment`` stands in for those of images. ``image_shape`` (H, W, C): of the images behind them. ``vae``: the folder
    of the autoencoder, "" where it is not known; ``tile``: the side of the squares of latents that it decodes one by
    one, 0: all at once. ``text``: where the captions' encoder is, and how many tokens it gave, or None.
    """

    codec: Codec
    augment: Augment
    image_shape: tuple[int, int, int]
    vae: str = ""
    tile: int = 0
    text: tuple[str, int] | None = None


class Dataset(NamedTuple):
    """Images of ``shape`` (h, w, c) in ``classes`` classes (0: unlabelled), and the names of those that have one.

    ``dtype``: of the stored images, "uint8" or "float32", and "float16" of latents. ``draw(images [n, h, w, c]) ->
    uint8 [H, W, 3]``: how samples are shown, for data that are no pictures; None shows a grid of them. ``extras``: the
    names of the other records of ``train``, int32, and their shape for each image. ``rule``: what all images obey, a
    name of `evaluate.consistency.RULES`, or "". ``text``: the sizes of the embedded captions. ``captions``: both
    sources also have ``captions(indices) -> list of str``. ``latents``: of data that are no images, but encoded ones.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    train: Source
    heldout: Source
    class_names: tuple[str, ...] = ()
    dtype: str = "uint8"
    draw: Callable[[np.ndarray], np.ndarray] | None = None
    extras: tuple[tuple[str, tuple[int, ...]], ...] = ()
    rule: str = ""
    text: CondShape = CondShape()
    captions: bool = False
    latents: Latents | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the images, also where latents are stored."""
        return self.shape if self.latents is None else self.latents.image_shape

    @property
    def records(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The shape for each image and the dtype of every record of ``train``."""
        label = {"label": ((), "int32")} if self.classes else {}
        extras = {name: (shape, "int32") for name, shape in self.extras}
        return {"image": (self.shape, self.dtype)} | label | extras | embeddings(self.text)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that identifies the data and how they are split."""
        return digest(self.name, self.shape, self.classes, self.train.fingerprint, self.heldout.fingerprint)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A source in memory: ``image`` uint8 or float32 [n, h, w, c] and ``label`` int32 [n] or None."""

    image: np.ndarray
    label: np.ndarray | None = None

    def __post_init__(self):
        if self.image.dtype not in (np.uint8, np.float32) or self.image.ndim != 4:
            raise DataError(
                f"images must be uint8 or float32 [n, h, w, c], got {self.image.dtype} {list(self.image.shape)}"
            )
        if self.label is not None and (self.label.dtype != np.int32 or self.label.shape != self.image.shape[:1]):
            raise DataError(
                f"labels must be int32 [{len(self.image)}], got {self.label.dtype} {list(self.label.shape)}"
            )

    def __len__(self) -> int:
        return len(self.image)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        records = {"image": self.image[indices]}
        return records if self.label is None else records | {"label": self.label[indices]}

    @property
    def fingerprint(self) -> str:
        return digest(self.image.shape, self.image.tobytes(), b"" if self.label is None else self.label.tobytes())


def embeddings(text: CondShape) -> dict[str, tuple[tuple[int, ...], str]]:
    """The records of embedded captions of these sizes: shape for each image, and dtype."""
    tokens = {"text": ((text.text_length, text.text_width), "float16"), "text_mask": ((text.text_length,), "bool")}
    pooled = {"pooled": ((text.pooled_width,), "float16")}
    return (tokens if text.text_width else {}) | (pooled if text.pooled_width else {})


def digest(*parts: object) -> str:
    """SHA-256 of the parts in order; bytes count as they are, anything else by its repr."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part if isinstance(part, bytes) else repr(part).encode()).digest())
    return total.hexdigest()
