"""The files of a run that people read: its configuration, its provenance, its report."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskdiff_jax.train.digest import json_digest

# Sections that a resumed run may change: they do not touch what is learned.
FREE = ("log", "evaluate", "sample", "checkpoint")
PACKAGES = ("maskdiff_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_ABSENT = object()


def plain(value: Any) -> Any:
    """The value as JSON holds it: tuples become lists, arrays nested lists, NaN and infinities "nan", "inf" and "-inf".

    JSON has no such numbers; ``float("nan")`` reads them back. Raises TypeError for what is not data.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON data: {value!r} of type {type(value).__name__}")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` (see `plain`) in one stroke: a reader or a crash finds the old file or the new one, whole."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Replace a file in one stroke, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises ValueError, in one line, where it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str] = FREE) -> list[str]:
    """How a stored configuration differs from a new one, outside the sections (or dotted keys) in ``free``.

    One line per key: "optimizer.lr: 0.001 in the workdir, 0.002 now".
    """
    stored, current = dict(_leaves(plain(old))), dict(_leaves(plain(new)))
    lines = []
    for key in dict.fromkeys([*stored, *current]):
        a, b = stored.get(key, _ABSENT), current.get(key, _ABSENT)
        same = a == b and isinstance(a, bool) == isinstance(b, bool)
        if not same and not any(key == section or key.startswith(f"{section}.") for section in free):
            lines.append(f"{key}: {_shown(a)} in the workdir, {_shown(b)} now")
    return lines


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to run it again: versions, revision, devices, and a digest of the configuration."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "revision": revision(Path(__file__).resolve().parents[2]),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "config_sha256": json_digest(plain(config)),
    }


def revision(folder: Path) -> str | None:
    """The git commit of a checkout, with "-dirty" where tracked files differ from it; None outside a checkout."""
    if not (folder / ".git").exists():  # not git's own search: an installed package may lie inside another repository
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty section and a list are values."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
