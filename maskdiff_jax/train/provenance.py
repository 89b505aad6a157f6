"""What a number was made with: versions, source revision, device, configuration, date."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("maskdiff_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance entry of a report about a run of ``config``, a JSON-able mapping."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(Path(__file__).parents[2]),
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
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
