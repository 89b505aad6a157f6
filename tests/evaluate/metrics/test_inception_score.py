from itertools import pairwise

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics.inception_score import inception_score


def logits(seed, n, classes=6):
    return 3 * np.random.default_rng(seed).normal(size=(n, classes))


def test_closed_forms():
    """1 where every sample looks alike; the number of classes where each sample is one of them and all are equal."""
    assert inception_score(np.tile(logits(0, 1), (50, 1))).mean == pytest.approx(1, abs=1e-12)
    sure = np.tile(1e4 * np.eye(5), (20, 1))
    assert inception_score(sure, splits=1).mean == pytest.approx(5, rel=1e-12)
    assert inception_score(sure, splits=4, seed=None) == pytest.approx((5, 0), abs=1e-12)
    assert inception_score(sure[:, :5][sure[:, 0] > 0], splits=2).mean == pytest.approx(1)  # 4 classes never seen


def test_two_groups_of_samples():
    """A share a of samples has p, the others q: exp(a KL(p, m) + (1 - a) KL(q, m)), m the mixture."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
    samples = np.log(np.concatenate([np.tile(p, (30, 1)), np.tile(q, (70, 1))]))
    m = 0.3 * p + 0.7 * q
    expected = np.exp(0.3 * np.sum(p * np.log(p / m)) + 0.7 * np.sum(q * np.log(q / m)))
    assert inception_score(samples, splits=1).mean == pytest.approx(expected, rel=1e-12)


def test_parts():
    """Without shuffling, the mean and deviation over consecutive parts, each scored alone; 10 does not divide 57."""
    samples = logits(1, 57)
    ends = [i * 57 // 10 for i in range(11)]
    scores = [inception_score(samples[a:b], splits=1).mean for a, b in pairwise(ends)]
    assert inception_score(samples, seed=None) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)
    assert inception_score(samples) != inception_score(samples, seed=1)


def test_logits_are_up_to_a_constant_each():
    samples = logits(2, 100)
    shifted = samples + 50 * np.random.default_rng(3).normal(size=(100, 1))
    assert inception_score(samples) == pytest.approx(inception_score(shifted), rel=1e-12)
    assert 1 <= inception_score(samples).mean <= 6


@pytest.mark.parametrize(
    ("samples", "splits", "message"),
    [
        (logits(0, 9), 10, "logits for inception_score: at least 10 needed, got 9"),
        (logits(0, 9), 0, "splits ≥ 1, got 0"),
        (logits(0, 9) * np.nan, 3, "logits for inception_score hold NaN"),
        (np.zeros(9), 3, r"got shape \[9\]"),
    ],
)
def test_bad_input(samples, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(samples, splits)
