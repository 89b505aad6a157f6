"""Seals: the SHA-256 of every file of a checkpoint, committed with it.

The digests of the arrays prove what was restored; a seal notices a flipped bit also where it would change no value yet.
"""

import hashlib
import json
from pathlib import Path

from maskdiff_jax.train.files import write_atomically

NAME = "files.json"


def seal(folder: Path, items: tuple[str, ...]) -> None:
    """Write ``folder/files.json``: the digests of all files below the sub-folders ``items``."""
    files = [path for item in items for path in sorted((folder / item).rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(folder)): _digest(path) for path in files}
    write_atomically(folder / NAME, (json.dumps(digests, indent=1) + "\n").encode())


def broken(folder: Path) -> str | None:
    """What differs from the seal, in words; None where nothing does, or where there is no seal."""
    if not (folder / NAME).exists():
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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
