"""Inception weights from PyTorch's file to the names of this network; PyTorch is not needed.

    python -m maskdiff_jax.evaluate.features.torch_weights pt_inception-2015-12-05-6726825d.pth inception.npz

prints the SHA-256 of both files. Where the name of the first ends with the beginning of its digest, as those of
published weights do, it must agree. Bad input ends in one line and exit status 2.
"""

import argparse
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maskdiff_jax.evaluate.features.inception import URL, shapes
from maskdiff_jax.train.files import write_atomically
from maskdiff_jax.weights.files import check_shapes
from maskdiff_jax.weights.torch_files import read_tensors

NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def to_flax(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's state dict under the names and axes of this network, float32.

    Kernels [out, in, h, w] become [h, w, in, out], the classifier [out, in] becomes [in, out]. The classifier's bias
    and the norms' count of batches are left out: features have no use for them. Raises ValueError, in one line, where
    what is left are not the arrays of the network.
    """
    used = {name: array for name, array in tensors.items() if not name.endswith(("fc.bias", "num_batches_tracked"))}
    arrays = {_name(name): np.ascontiguousarray(_axes(array), np.float32) for name, array in used.items()}
    check_shapes(arrays, shapes(), "the tensors")
    return arrays


def _name(name: str) -> str:
    *path, leaf = name.split(".")
    return "/".join([*path, NORM.get(leaf, leaf) if path[-1:] == ["bn"] else "kernel"])


def _axes(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def convert(source: Path, target: Path) -> str:
    """Write the arrays of PyTorch's file ``source`` as ``target``, an .npz; returns a sentence with both digests.

    The same source gives the same bytes. Raises ValueError, in one line, for a source that is not the weights of
    Inception, or not those that its name says; OSError where it cannot be read or the target be written.
    """
    if target.suffix != ".npz":
        raise ValueError(f"{target}: the name must end in .npz")
    data = source.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})$", source.stem)
    if promised and not digest.startswith(promised[1]):
        raise ValueError(f"{source} has the SHA-256 {digest}, not the one in its name: download it again from {URL}")
    try:
        arrays = to_flax(read_tensors(data))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]  (names of arrays, not allow_pickle)
    write_atomically(target, buffer.getvalue())
    written = hashlib.sha256(buffer.getbuffer()).hexdigest()
    return f"{target}: {len(arrays)} arrays, SHA-256 {written}, from {source}, SHA-256 {digest}"


def main(argv: Sequence[str] | None = None) -> None:
    name = "python -m maskdiff_jax.evaluate.features.torch_weights"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="the .pth file")
    parser.add_argument("target", type=Path, help="the .npz file to write")
    options = parser.parse_args(argv)
    try:
        print(convert(options.source, options.target))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
