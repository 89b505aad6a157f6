"""CIFAR-10 for one GPU: the changes to `configs/cifar_dense.py` that both claims with a GPU budget share.

--data is a folder that TFDS has prepared, or the .npz that `python -m benchmarks.claims.packed` makes of one, which is
read without TFDS. The trainer itself needs ml_collections, clu, grain and orbax: those cannot be left out.
"""

from typing import Any

SECONDS = 115.0  # of steps for each arm, compilation not counted; how many they are is measured on the spot
NOTE = (
    "The public copy of CIFAR-10 behind these figures was re-encoded as JPEG (quality about 75, chroma halved): they "
    "compare with each other, not with FID values published for the original."
)
CIFAR: dict[str, Any] = {
    "data": {"name": "benchmarks.claims.packed:cifar10", "path": ""},
    "steps": 4000,
    "batch": 256,
    "schedule": {"name": "constant", "learning_rate": 3e-4, "warmup": 100},
    "ema": (0.999,),
    "sample": {"steps": 25},
    "evaluate": {"batch": 500},
}
