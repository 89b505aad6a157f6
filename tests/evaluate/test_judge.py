import numpy as np
import pytest

from maskdiff_jax.evaluate.judge import JUDGES, class_accuracy
from maskdiff_jax.evaluate.quality import quality
from tests.evaluate.digits import digits

IMAGES, LABELS = digits()
TRAIN, HELDOUT = (IMAGES[:1437], LABELS[:1437]), (IMAGES[1437:], LABELS[1437:])


def test_svm_reads_real_digits():
    classify = JUDGES["svm"]()(*TRAIN)
    assert class_accuracy(classify, *HELDOUT) >= 0.98
    assert class_accuracy(classify, HELDOUT[0], (HELDOUT[1] + 1) % 10) <= 0.02


def test_accuracy_counts():
    assert class_accuracy(lambda x: np.array([0, 1, 2, 2]), IMAGES[:4], np.array([0, 1, 2, 3])) == 0.75


def test_bad_input():
    with pytest.raises(ValueError, match="penalty must be positive, got 0"):
        JUDGES["svm"](penalty=0)
    with pytest.raises(ValueError, match="3 images, 2 labels"):
        class_accuracy(lambda x: LABELS[:3], IMAGES[:3], LABELS[:2])


def test_quality_of_copies_and_of_new_images():
    """Copies of training images: judged right, at distance 0. Held-out images: as far as the reference says."""
    copies = quality(TRAIN[0][:500], TRAIN, HELDOUT, judged=(TRAIN[0][:100], TRAIN[1][:100]), judge=JUDGES["svm"]())
    new = quality(*HELDOUT[:1], TRAIN, HELDOUT, judge=JUDGES["none"]())
    assert copies["class_accuracy"] > 0.98 <= copies["judge_accuracy"]
    assert copies["nearest_train_distance"] == 0 < copies["nearest_train_distance_heldout"]
    assert new["nearest_train_distance"] == new["nearest_train_distance_heldout"]
    assert 0 < new["pixel_frechet"] < 1 and 0 < new["pixel_frechet_reference"] < 1
    assert new["class_accuracy"] is None and new["judge_accuracy"] is None


def test_no_pixel_frechet_on_large_images():
    large = np.zeros((4, 64, 65, 1), np.float32)
    metrics = quality(large, (large, None), (large, None), judged=(large, None), judge=JUDGES["svm"]())
    assert metrics["pixel_frechet"] is None and metrics["pixel_frechet_reference"] is None
    assert metrics["class_accuracy"] is None
    assert metrics["nearest_train_distance"] == 0
