"""The Inception Score: how sure a classifier is of each sample, and how many classes it sees in all of them."""

import numpy as np

from maskdiff_jax.evaluate.metrics.distances import checked
from maskdiff_jax.evaluate.metrics.kid import Spread


def inception_score(logits: np.ndarray, splits: int = 10, seed: int | None = 2020) -> Spread:
    """exp E KL(p(y|x) ‖ p(y)) of classifier outputs ``logits`` [n, c] (Salimans et al. 2016): between 1 and c.

    The samples are shuffled by ``seed`` (None: not) and cut into ``splits`` parts of one size, give or take one; the
    mean and deviation are over these. Order and parts are those of torch-fidelity for the same seed. Log-probabilities
    serve as logits. Raises ValueError for bad logits or fewer of them than ``splits``.
    """
    if splits < 1:
        raise ValueError(f"inception_score needs splits ≥ 1, got {splits}")
    logits = checked(logits, "logits for inception_score", splits)
    n = len(logits)
    order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
    scores = [_score(logits[order[i * n // splits : (i + 1) * n // splits]]) for i in range(splits)]
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    from scipy.special import log_softmax  # takes a while to import

    log_p = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(log_p)
    q = p.mean(axis=0)
    log_q = np.log(q, out=np.zeros_like(q), where=q > 0)  # a class of which no sample has any probability: 0 log 0 = 0
    return float(np.exp((p * (log_p - log_q)).sum(axis=1).mean()))
