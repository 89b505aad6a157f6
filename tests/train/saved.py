"""States in checkpoints, for the tests of these: made, saved, read back, and doctored."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskdiff_jax.train.checkpoint import Checkpoints
from maskdiff_jax.train.digest import json_digest
from maskdiff_jax.train.reading import abstract

DATA, META = {"epoch": 3, "position": [5, 7]}, {"config": {"lr": 1e-3}, "fingerprint": "f", "versions": {"jax": "0"}}


def make_state(seed: int) -> dict:
    """float32, bfloat16, int32 and bool leaves, replicated or sharded over the eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "kernel": jax.random.normal(keys[0], (64, 40)),
        "half": jax.random.normal(keys[1], (24, 3), jnp.bfloat16),
    }
    moments = optax.adamw(1e-3).init(params)
    state = {
        "step": jnp.int32(seed),
        "params": params,
        "opt_state": jax.tree.map(lambda leaf: leaf + seed, moments),
        "mask": jax.random.bernoulli(keys[2], 0.5, (11,)),
    }
    place = lambda leaf: PartitionSpec("data") if leaf.ndim == 2 else PartitionSpec()  # noqa: E731
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, place(leaf))), state)


def make_states() -> dict[int, dict]:
    return {step: make_state(step) for step in (100, 200)}


def save_all(folder: Path, states: dict[int, dict]) -> Path:
    checkpoints = Checkpoints(folder)
    for step, state in states.items():
        checkpoints.save(step, state, DATA | {"step": step}, META)
    checkpoints.close()
    return folder


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.sharding == y.sharding
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def restore(folder, state, **options):
    """(restored, warnings)."""
    warnings = []
    checkpoints = Checkpoints(folder, warn=warnings.append, **options)
    try:
        return checkpoints.restore(abstract(state)), warnings
    finally:
        checkpoints.close()


def files(step_folder: Path) -> list[Path]:
    """The largest first."""
    return sorted((f for f in step_folder.rglob("*") if f.is_file()), key=lambda f: (-f.stat().st_size, f))


def truncate(folder: Path):
    largest = files(folder)[0]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def rewrite(folder: Path, **changes):
    """Change the body of a record, and its digest to match; None removes a key."""
    path = folder / "record" / "metadata"
    body = json.loads(path.read_text())["body"] | changes
    body = {key: value for key, value in body.items() if value is not None}
    path.write_text(json.dumps({"sha256": json_digest(body), "body": body}))


def unseal(folder: Path):
    """As if the checkpoint had never had a seal."""
    rewrite(folder, sealed=None)
    (folder / "files.json").unlink()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
