import pytest

from tests.evaluate.metrics.recorded_values import FILE, ours, recorded, vectors


def test_agreement_with_torch_fidelity_and_prdc():
    """On the same features and subsets, n > 2d."""
    values = recorded()
    assert len(values) == 9
    assert ours(vectors()) == pytest.approx(values, rel=1e-6)
    assert FILE.stat().st_size < 100_000
