"""Positive controls: what each metric says of samples of which none, half or all are copies of training images."""

import numpy as np
import pytest

from maskdiff_jax.evaluate.metrics import Images, Options, compute
from tests.evaluate.digits import digits

NAMES = ("copied", "authpct", "ct", "precision", "recall", "density", "coverage", "kid")


@pytest.fixture(scope="module", params=[0.0, 0.01], ids=["exact", "noisy"])
def values(request):
    """Real digits: 600 to train on, 597 held out, and 600 samples, unseen digits or copies with a little noise."""
    images = digits()[0].reshape(-1, 64)
    fresh, train, heldout = images[:600], images[600:1200], images[1200:]
    draw = np.random.default_rng(0)
    copies = train[draw.permutation(600)] + request.param * draw.normal(size=(600, 64)).astype(np.float32)
    sets = {share: np.concatenate([copies[: 6 * share], fresh[: 600 - 6 * share]]) for share in (0, 50, 100)}
    options = Options(kid_size=300, kid_subsets=20)
    real = Images(heldout)
    return {share: compute(NAMES, Images(fake), real, train, heldout, options=options) for share, fake in sets.items()}


def test_the_share_of_copies_is_found(values):
    for share in (0, 50, 100):
        assert values[share]["copied"] == pytest.approx(share / 100, abs=0.02)


def test_authenticity_falls_to_nothing(values):
    none, half, all_ = (values[share]["authpct"] for share in (0, 50, 100))
    assert 40 < none < 70
    assert half == pytest.approx(none / 2, abs=5)
    assert all_ == 0


def test_the_three_sample_test_sees_nothing_and_then_everything(values):
    none, half, all_ = (values[share]["ct"] for share in (0, 50, 100))
    assert abs(none) < 2
    assert half < -7
    assert all_ < -15


def test_fidelity_and_diversity_do_not_see_copies(values):
    for share in (50, 100):
        for name in ("precision", "recall", "coverage"):
            assert values[share][name] == pytest.approx(values[0][name], abs=0.05)
        assert values[share]["kid"] == pytest.approx(values[0]["kid"], abs=values[0]["kid_std"])
