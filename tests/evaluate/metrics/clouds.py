"""Sets of features for the tests of this room, and the tables that they are checked against."""

import numpy as np


def cloud(seed: int, n: int, d: int = 8, offset: float = 0.0) -> np.ndarray:
    """Normal features [n, d] float32, correlated, and ``offset`` away from the origin in every direction."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, d)) @ (np.eye(d) + 0.3 * np.ones((d, d))) + offset).astype(np.float32)


def table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n, m], all of them, in float64 from the differences."""
    return np.square(np.subtract(a[:, None], b[None], dtype=np.float64)).sum(axis=2)


def mixture(draw: np.random.Generator, n: int, d: int = 16) -> np.ndarray:
    """Features [n, d] float32 of a mixture of five Gaussians."""
    return (draw.normal(size=(n, d)) + 3 * np.eye(d)[draw.integers(0, 5, n)]).astype(np.float32)
