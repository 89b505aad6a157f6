"""Our metrics and those of torch-fidelity and prdc on the same features; `python -m tests.crosscheck.test_metrics`
writes what they say of the recorded features anew."""

import numpy as np
import pytest

from tests.evaluate.metrics.recorded_values import FILE, OPTIONS, PREFIX, SCHEME, ours, recorded, vectors


def peers(vectors: dict[str, np.ndarray]) -> dict[str, float]:
    """What torch-fidelity and prdc say, on float64, under the names of `compute`."""
    from tests.crosscheck.reference import stand_in_torchvision

    stand_in_torchvision()
    import prdc
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    fake, real, logits = (torch.from_numpy(vectors[name].astype(np.float64)) for name in ("fake", "real", "logits"))
    statistics = [metric_fid.fid_features_to_statistics(features) for features in (fake, real)]
    frechet = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    kid = metric_kid.kid_features_to_metric(
        fake,
        real,
        kid_subsets=OPTIONS.kid_subsets,
        kid_subset_size=OPTIONS.kid_size,
        rng_seed=OPTIONS.seed,
        verbose=False,
    )
    score = metric_isc.isc_features_to_metric(logits, OPTIONS.splits, True, OPTIONS.seed)
    shares = metric_prc.prc_features_to_metric(fake, real, prc_neighborhood=OPTIONS.k, verbose=False)
    naeem = prdc.compute_prdc(real.numpy(), fake.numpy(), OPTIONS.k_density)
    return {
        "fid": frechet["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is": score["inception_score_mean"],
        "is_std": score["inception_score_std"],
        "precision": shares["precision"],
        "recall": shares["recall"],
        "density": float(naeem["density"]),
        "coverage": float(naeem["coverage"]),
    }


def fresh(seed: int, n: int, m: int, d: int) -> dict[str, np.ndarray]:
    """Features as networks have them: float32, positive, correlated; and logits."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(d, d))
    fake, real = (np.maximum(draw.normal(size=(count, d)) @ mix + 1, 0) for count in (n, m))
    logits = 3 * draw.normal(size=(n, 10))
    return {"fake": fake.astype(np.float32), "real": real.astype(np.float32), "logits": logits.astype(np.float32)}


@pytest.mark.parametrize(("n", "m", "d"), [(300, 280, 16), (700, 650, 300), (2000, 1500, 64)])
def test_fresh_features(n, m, d):
    given = fresh(n, n, m, d)
    assert ours(given) == pytest.approx(peers(given), rel=1e-6)


def test_copies_and_a_shift():
    given = fresh(1, 400, 400, 32)
    given["fake"][:100] = given["real"][:100]
    given["fake"][100:200] += 0.5
    assert ours(given) == pytest.approx(peers(given), rel=1e-6)


def test_the_recorded_values_are_still_what_they_say():
    assert recorded() == pytest.approx(peers(vectors()), rel=1e-6)


if __name__ == "__main__":
    given = fresh(*SCHEME)
    values = {PREFIX + name: np.array(value) for name, value in peers(given).items()}
    np.savez_compressed(FILE, **given, **values)  # pyright: ignore[reportArgumentType]
