"""Where trained networks come from: one table of what a path may be, for `maskdiff_jax.load` and ``config.init_from``.

Another kind of place is a line in `KINDS`: what tells it, and what reads it.
"""

from pathlib import Path

from maskdiff_jax.parts import ConfigError
from maskdiff_jax.sources import dit, exported, runs
from maskdiff_jax.sources.base import Built as Built
from maskdiff_jax.sources.base import Inherited as Inherited
from maskdiff_jax.sources.base import Kind, checked, of_files

KINDS: dict[str, Kind] = {  # the first that holds
    "a folder of diffusers' DiTPipeline": of_files(dit.holds_pipeline, dit.read_pipeline),
    "a folder of its DiTTransformer2DModel": of_files(dit.holds_network, dit.read_network),
    f"a file or folder with {exported.FILE} that --mode=export has written": of_files(exported.holds, exported.read),
    "a checkpoint of the DiT's authors (.pt or .safetensors)": of_files(Path.is_file, dit.read_published),
    "the workdir of a run": Kind(runs.holds, runs.use, runs.start),
}


def use(path: Path, checkpoint: str = "newest", vae: str = "") -> Built:
    """The network at ``path``, of any of `KINDS`, to draw with.

    Raises ConfigError, or CheckpointError of a run; OSError where a file cannot be read.
    """
    return _kind(path).use(path, checkpoint, vae)


def start(path: Path, weights: str) -> Inherited:
    """The parameters at ``path``, of any of `KINDS`, to train on from; raises as `use`."""
    return _kind(path).start(path, weights)


def _kind(path: Path) -> Kind:
    for kind in KINDS.values():
        if checked(kind.holds, path):
            return kind
    *others, last = KINDS
    raise ConfigError(f"{path} holds no network: it is neither {', '.join(others)} nor {last}")
