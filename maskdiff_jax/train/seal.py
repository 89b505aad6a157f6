"""The files of checkpoints: seals, what becomes of damaged ones, and why a file cannot be had.

A seal is the SHA-256 of every file of a checkpoint, committed with it. The digests of the arrays prove what was
restored; a seal notices a flipped bit also where it would change no value yet.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from maskdiff_jax.train.files import write_atomically

NAME = "files.json"


def seal(folder: Path, items: tuple[str, ...]) -> None:
    """Write ``folder/files.json``: the digests of all files below the sub-folders ``items``."""
    files = [path for item in items for path in sorted((folder / item).rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(folder)): _digest(path) for path in files}
    write_atomically(folder / NAME, (json.dumps(digests, indent=1) + "\n").encode())


def is_there(folder: Path) -> bool:
    return (folder / NAME).exists()


def broken(folder: Path) -> str | None:
    """What differs from the seal, in words; None where nothing does, or where there is no seal."""
    if not is_there(folder):
        return None
    try:
        digests = json.loads((folder / NAME).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if not (folder / name).is_file():
                return f"file {name} is missing"
            if _digest(folder / name) != digest:
                return f"file {name} differs from its digest"
    except (ValueError, AttributeError, OSError) as error:
        return f"file {NAME} cannot be read: {error}"
    return None


def set_aside(directory: Path, step: int) -> Path:
    """Move a damaged checkpoint to a free name beside it, which is returned. Every process must call this together."""
    names = [f"damaged-{step}", *(f"damaged-{step}-{i}" for i in range(2, 1000))]
    target = next(directory / name for name in names if not (directory / name).exists())
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maskdiff_jax: choose where to set a checkpoint aside")
    if jax.process_index() == 0:
        (directory / str(step)).rename(target)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("maskdiff_jax: checkpoint set aside")
    return target


def reason(error: BaseException) -> str:
    """Why, in one short line: TensorStore wraps it in the path of reading and the whole storage specification."""
    while error.__cause__ is not None:
        error = error.__cause__
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).split(" [tensorstore_spec")[0].splitlines()), "")
    return f"{type(error).__name__}: {text if len(text) <= 200 else '… ' + text[-200:]}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
