"""Captions as a network is given them: embedded by a frozen encoder, or read from a file, in half precision."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from maskdiff_jax.data import Dataset, Source
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.train.digest import array_digest, json_digest
from maskdiff_jax.train.parallel import collect, make_mesh, place, replicated
from maskdiff_jax.types import CondShape
from maskdiff_jax.weights.embeddings import read_embeddings
from maskdiff_jax.weights.text import load_text_encoder

# Captions [b] -> text float16 [b, l, d], 0 at padding; text_mask bool [b, l]; pooled float16 [b, p] where there is one.
Embed = Callable[[Sequence[str]], dict[str, np.ndarray]]


class Embedded(NamedTuple):
    """``of(source, indices [b], first) -> {name: [b, ...]}``, the records of embedded captions of these images.

    ``first``: the number of images before the source's. ``sizes``: of the records; ``source``, ``digest``: of what made
    them.
    """

    of: Callable[[Source, np.ndarray, int], dict[str, np.ndarray]]
    sizes: CondShape
    source: str
    digest: str


def encoder(folder: Path, mesh: Mesh, length: int = 0, dtype: str = "float32") -> tuple[Embed, CondShape, str]:
    """What embeds captions by the encoder in a folder, the sizes of its answer, and a digest of its weights.

    ``length``: tokens of a caption, 0: as many as the encoder usually has. The captions of a call are shared among the
    devices of ``mesh``, which must divide their number. Raises ValueError and OSError as `load_text_encoder`.
    """
    text = load_text_encoder(folder, dtype=dtype)
    length = length or text.length
    text.tokenize([""], length)  # which raises what is wrong with the length
    whole = replicated(mesh)
    params = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, whole, x.__getitem__), text.params)

    @jax.jit
    def encode(params, ids: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        found = text.encode(params, ids, mask)
        pooled = {} if found.pooled is None else {"pooled": found.pooled.astype("float16")}
        return {"text": (found.tokens * mask[:, :, None]).astype("float16")} | pooled

    def embed(captions: Sequence[str]) -> dict[str, np.ndarray]:
        ids, mask = text.tokenize(captions, length)
        return jax.tree.map(collect, encode(params, *place(mesh, (ids, mask)))) | {"text_mask": mask}

    sizes = CondShape(text_length=length, text_width=text.width, pooled_width=text.pooled_width or 0)
    leaves = jax.tree_util.tree_leaves_with_path(text.params)
    weights = json_digest({jax.tree_util.keystr(path): array_digest(leaf) for path, leaf in leaves})
    return embed, sizes, weights


def by_encoder(folder: Path, mesh: Mesh, length: int, dtype: str) -> Embedded:
    """Captions of a source that has them."""
    embed, sizes, weights = encoder(folder, mesh, length, dtype)

    def of(source: Any, indices: np.ndarray, first: int) -> dict[str, np.ndarray]:
        return embed(source.captions(indices))

    return Embedded(of, sizes, str(folder.absolute()), weights)


def from_file(path: Path, images: int) -> Embedded:
    """Embeddings that were computed elsewhere: row i is of image i, the training images before the held-out ones.

    Raises ValueError for a file of other embeddings, OSError where it cannot be read.
    """
    table = read_embeddings(path)
    if len(table.text) != images:
        raise ValueError(f"{path} has embeddings of {len(table.text)} captions, and there are {images} images")
    records = {"text": (table.text * table.mask[:, :, None]).astype(np.float16), "text_mask": table.mask}
    records |= {} if table.pooled is None else {"pooled": table.pooled.astype(np.float16)}
    pooled = 0 if table.pooled is None else table.pooled.shape[1]
    sizes = CondShape(text_length=table.text.shape[1], text_width=table.text.shape[2], pooled_width=pooled)
    digest = json_digest({name: array_digest(array) for name, array in records.items()})

    def of(source: Source, indices: np.ndarray, first: int) -> dict[str, np.ndarray]:
        return {name: array[first + indices] for name, array in records.items()}

    return Embedded(of, sizes, str(path.absolute()), digest)


def embedded(source: str, captioned: bool, images: int, mesh: Mesh, length: int, dtype: str) -> Embedded | None:
    """What embeds the captions of ``images`` images: the encoder in the folder ``source``, the file of that name.

    None where ``source`` is "". Raises ConfigError for captions without an encoder, and an encoder without captions.
    """
    path = Path(source).expanduser()
    if not source:
        if captioned:
            raise ConfigError(
                "config.encode.text: the images have captions, and no encoder is named: name its folder, a file of "
                "embeddings, or set config.encode.data.captions=False"
            )
        return None
    try:
        if path.is_dir():
            if not captioned:
                raise ConfigError(f"config.encode.text: {source} encodes captions, and the images have none")
            return by_encoder(path, mesh, length, dtype)
        return from_file(path, images)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.encode.text: {error}") from error


def prompts(dataset: Dataset, folder: str, captions: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """The conditions of ``count`` samples that these captions describe, in turn: see `Embed`.

    ``folder``: of the encoder; "": the one that embedded the captions of the data. Raises ConfigError where the network
    knows no captions, the encoder is not there, or it is another one by its sizes.
    """
    known = dataset.latents and dataset.latents.text
    if not known:
        raise ConfigError("--captions: this model has not been trained on captions")
    where, length = known
    path = Path(folder or where).expanduser()
    if not path.is_dir():
        raise ConfigError(f"--captions: there is no encoder in {path}: name its folder as config.encode.text")
    mesh = make_mesh()
    try:
        embed, sizes, _ = encoder(path, mesh, length)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--captions: {error}") from error
    if sizes != dataset.text:
        raise ConfigError(f"--captions: {path} gives {_shown(sizes)}, and this model takes {_shown(dataset.text)}")
    few = list(captions)[:count]
    filled = [few[i % len(few)] for i in range(-(-len(few) // mesh.size) * mesh.size)]
    return {name: values[np.arange(count) % len(few)] for name, values in embed(filled).items()}


def _shown(sizes: CondShape) -> str:
    pooled = f" and a vector of {sizes.pooled_width}" if sizes.pooled_width else ""
    return f"{sizes.text_length} tokens of {sizes.text_width}{pooled}"
