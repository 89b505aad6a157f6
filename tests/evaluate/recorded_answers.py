"""What the recorded answers are answers to."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "recorded"
INCEPTION_IMAGES = (2, 40, 24, 3)
CONVENTIONS = ("tf", "torch")
# images -> side, and of which pixels the answers are kept
RESIZES = {
    "grow": ((1, 32, 24, 1), (299, 299), 13),
    "shrink": ((1, 333, 410, 1), (299, 299), 13),
    "few": ((2, 5, 7, 3), (23, 17), 1),
    "same": ((1, 9, 9, 1), (9, 9), 1),
}


def answers(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def tensors() -> dict[str, np.ndarray]:
    """A state dict with a view that is transposed, one that starts inside its storage, and a count."""
    whole = np.arange(24, dtype=np.float32) / 8
    return {
        "conv.weight": whole.reshape(2, 3, 2, 2),
        "fc.weight": whole[:6].reshape(2, 3).T,
        "fc.bias": whole[20:],
        "bn.half": whole[:4].astype(np.float16),
        "bn.num_batches_tracked": np.array(7, np.int64),
    }
