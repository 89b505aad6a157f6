"""A file of tensors that PyTorch saved, as safetensors; PyTorch is not needed, and nothing that the file says is run.

    python -m maskdiff_jax.weights.convert pytorch_model.bin model.safetensors

The file may hold a dict of tensors and nothing else. Bad input ends in one line and exit status 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from maskdiff_jax.weights.folders import write_tensors
from maskdiff_jax.weights.torch_files import read_file


def convert(source: Path, target: Path) -> str:
    """Write the tensors of ``source`` as ``target``, under their names and in their dtype; returns a sentence.

    Raises ValueError, in one line, for a target that is there or of another kind, and as `read_file`; OSError where the
    source cannot be read or the target not be written.
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the name must end in .safetensors")
    if target.exists():
        raise ValueError(f"{target} exists: name another file")
    tensors = read_file(source)
    write_tensors(target, tensors, {"format": "pt"})
    return f"{target}: {len(tensors)} tensors from {source}"


def main(argv: Sequence[str] | None = None) -> None:
    name = "python -m maskdiff_jax.weights.convert"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="the file that PyTorch saved (.pt, .pth, .bin, .ckpt)")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    options = parser.parse_args(argv)
    try:
        print(convert(options.source, options.target))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
