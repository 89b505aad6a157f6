"""The image metrics of a report, from samples and the real images."""

import numpy as np

from maskdiff_jax.evaluate.better import IMAGE_METRICS
from maskdiff_jax.evaluate.consistency import violation_rates, violations
from maskdiff_jax.evaluate.judge import Judge, class_accuracy
from maskdiff_jax.evaluate.nearest import closest, nearest_distance, share_of_copies
from maskdiff_jax.evaluate.pixels import pixel_frechet, pixel_frechet_reference
from maskdiff_jax.evaluate.sliced import sliced_wasserstein, sliced_wasserstein_reference

METRICS = tuple(IMAGE_METRICS)
POINT_LIMIT = 16  # elements of an image up to which it is a point of a few dimensions, not a picture
Labelled = tuple[np.ndarray, np.ndarray | None]  # float images [n, h, w, c] in [-1, 1], labels [n] or None

PIXEL_LIMIT = 4096  # elements of an image above which a covariance of pixels says little and costs much


def quality(
    samples: np.ndarray,
    train: Labelled,
    heldout: Labelled,
    judged: Labelled | None = None,
    judge: Judge | None = None,
    rule: str = "",
    found: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float | None]:
    """The metrics of ``samples`` [n, h, w, c] against the real images, under the names of the report.

    pixel_frechet and its reference: against train and held-out images together, and between random halves of these;
    None where an image has more than 4,096 elements. nearest_train_distance: of the samples, and of (at most as many)
    held-out images. copied_share: see `nearest.copied_share`. sliced_wasserstein and its reference: as the Fréchet
    distances, for points (at most 16 elements) alone. class_accuracy: of the samples ``judged`` with the labels that
    they were asked for, by ``judge`` trained on the training images; judge_accuracy: its own on the held-out images;
    both None without a judge or without labels. violation_rate, unreadable_rate: see `consistency.violation_rates`;
    None for data without a ``rule``. ``found``: the `nearest.closest` two training images (one, where there is one) of
    the samples, where they are known.
    """
    real = np.concatenate([train[0], heldout[0]])
    small = real[0].size <= PIXEL_LIMIT
    plain = real[0].size <= POINT_LIMIT
    splits = 4 if len(real) < 10_000 else 1  # a large set's halves hardly differ from split to split
    unseen = heldout[0][np.linspace(0, len(heldout[0]) - 1, min(len(heldout[0]), len(samples))).astype(int)]
    distances = (found or closest(samples, train[0], min(2, len(train[0]))))[0]
    metrics: dict[str, float | None] = {
        "class_accuracy": None,
        "judge_accuracy": None,
        "pixel_frechet": pixel_frechet(samples, real) if small else None,
        "pixel_frechet_reference": pixel_frechet_reference(real, splits) if small else None,
        "nearest_train_distance": float(distances[:, 0].mean()),
        "nearest_train_distance_heldout": nearest_distance(unseen, train[0]),
        "copied_share": share_of_copies(distances) if distances.shape[1] > 1 else None,
        "sliced_wasserstein": sliced_wasserstein(_flat(samples), _flat(real)) if plain else None,
        "sliced_wasserstein_reference": sliced_wasserstein_reference(_flat(real)) if plain else None,
        "violation_rate": None,
        "unreadable_rate": None,
    }
    if rule:
        metrics |= violation_rates(violations(rule)(samples))
    if judge is not None and judged is not None and judged[1] is not None and train[1] is not None:
        classify = judge(train[0], train[1])
        metrics["class_accuracy"] = class_accuracy(classify, judged[0], judged[1])
        if heldout[1] is not None:
            metrics["judge_accuracy"] = class_accuracy(classify, heldout[0], heldout[1])
    return metrics


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
