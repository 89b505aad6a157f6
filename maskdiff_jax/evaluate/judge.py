"""Who says which class a sample shows: a classifier that has seen real training images only."""

from collections.abc import Callable

import numpy as np

from maskdiff_jax.evaluate.pixels import features

Classify = Callable[[np.ndarray], np.ndarray]  # images [n, h, w, c] -> labels [n]
Judge = Callable[[np.ndarray, np.ndarray], Classify]  # (real training images, their labels) -> Classify


def svm(penalty: float = 10.0) -> Judge:
    """A support-vector machine on raw pixels, with the RBF kernel, gamma = 1/(d·variance) and C = ``penalty``.

    For small, aligned images: 0.99 on held-out 8x8 digits. It does not suit natural images. Raises ValueError where
    the penalty is not positive.
    """
    if penalty <= 0:
        raise ValueError(f"penalty must be positive, got {penalty}")

    def train(images: np.ndarray, labels: np.ndarray) -> Classify:
        from sklearn.svm import SVC  # slow to import, and needed here only

        machine = SVC(C=penalty, gamma="scale").fit(features(images), np.asarray(labels))
        return lambda x: machine.predict(features(x))

    return train


def none() -> None:
    """No judge: the report's class_accuracy and judge_accuracy are null."""


JUDGES: dict[str, Callable[..., Judge | None]] = {"svm": svm, "none": none}


def class_accuracy(classify: Classify, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images [n, h, w, c] in which the judge sees ``labels`` [n].

    On samples this is the report's class_accuracy, on held-out real images the judge's own accuracy.
    Raises ValueError where there are no images or not one label for each.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"class accuracy needs a label for each image, got {len(images)} images, {len(labels)} labels")
    return float(np.mean(classify(images) == np.asarray(labels)))
