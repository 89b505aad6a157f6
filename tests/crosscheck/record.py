"""Write the recorded answers anew: ``python -m tests.crosscheck.record``, where torch and torch-fidelity are."""

import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from tests.crosscheck import reference
from tests.evaluate.inception_inputs import images, state_dict
from tests.evaluate.recorded_answers import CONVENTIONS, FOLDER, INCEPTION_IMAGES, RESIZES


def inception() -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        reference.save(state_dict() | {"fc.bias": np.zeros(1008, np.float32)}, path)
        return reference.features(path, images(*INCEPTION_IMAGES))


def resize() -> dict[str, np.ndarray]:
    return {
        f"{convention}_{name}": reference.resized(images(*shape), side, convention)[:, ::step, ::step]
        for name, (shape, side, step) in RESIZES.items()
        for convention in CONVENTIONS
    }


def saved(archive: bool) -> None:
    whole = torch.arange(24, dtype=torch.float32) / 8
    state = OrderedDict(
        {
            "conv.weight": whole.reshape(2, 3, 2, 2),
            "fc.weight": whole[:6].reshape(2, 3).T,
            "fc.bias": whole[20:],
            "bn.half": whole[:4].half(),
            "bn.num_batches_tracked": torch.tensor(7),
        }
    )
    setattr(state, "_metadata", OrderedDict({"": {"version": 1}}))  # noqa: B010  (as modules have it)
    name = "tensors.pth" if archive else "tensors_before_1_6.pth"
    torch.save(state, FOLDER / name, _use_new_zipfile_serialization=archive)


if __name__ == "__main__":
    np.savez_compressed(FOLDER / "inception.npz", **inception())  # pyright: ignore[reportArgumentType]
    np.savez_compressed(FOLDER / "resize.npz", **resize())  # pyright: ignore[reportArgumentType]
    saved(archive=True)
    saved(archive=False)
