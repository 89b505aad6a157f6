"""Images to latents, once for many runs: the folder that the data set `latents` reads.

D/index.json                            what is there; written last: a folder without it is unfinished
D/train-00003-of-00016.array_record     records, in the order of the images; and those that are held out
D/encoding.json                         of an unfinished folder: what is being written to it
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from array_record.python.array_record_module import ArrayRecordReader
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from maskdiff_jax.captions import Embedded, embedded
from maskdiff_jax.config import default_config
from maskdiff_jax.data import DATASETS, DataError, Dataset, embeddings
from maskdiff_jax.data.latents import FORMAT, INDEX, SPLITS, VERSION, check_shards
from maskdiff_jax.data.records import record_type, write_shard
from maskdiff_jax.encoding import Shard, make_records, shards_of
from maskdiff_jax.models.autoencoder import Autoencoder, codec
from maskdiff_jax.parts import ConfigError, check_keys, checked, part
from maskdiff_jax.train.digest import array_digest, flatten, json_digest
from maskdiff_jax.train.files import plain, read_json, write_json
from maskdiff_jax.train.parallel import make_mesh
from maskdiff_jax.train.progress import Progress, say
from maskdiff_jax.train.workdir import differences
from maskdiff_jax.types import Params
from maskdiff_jax.weights.autoencoder import load_autoencoder

UNFINISHED = "encoding.json"
TAKEN = ("label", "original")  # what comes with an image and is a condition: other records are of its pixels
# What may differ when a folder is gone on with: where things are, and what does not change the bytes.
MOVED = ("vae.folder", "text.source", "encode.vae", "encode.text", "encode.batch")
MOVED += ("encode.data.path", "encode.data.data_dir", "encode.data.download")


def encode(config: ConfigDict) -> Path:
    """Encode ``config.encode.data`` by ``config.encode`` into the folder ``config.data.path``, which is returned.

    Interrupted, it goes on with the same config where it was: files that are finished are kept, and in the end all
    bytes are those of one go. Several processes, which share the folder, take whole files each.

    Raises ConfigError or DataError, in one line, for what does not fit together, and for a folder that holds anything
    else; nothing is overwritten.
    """
    check_keys(config, default_config())
    settings, out = config.encode, _folder(config)
    for key, least in {"batch": 1, "shard": 1, "text_length": 0}.items():
        if not isinstance(settings[key], int) or settings[key] < least:
            raise ConfigError(f"config.encode.{key}: a whole number of at least {least}, got {settings[key]!r}")
    images: Dataset = part("encode.data", DATASETS, settings.data)
    if images.dtype != "uint8":
        raise ConfigError(f"config.encode.data: {images.name} holds no images of 8 bits")
    if not settings.vae:
        raise ConfigError("config.encode.vae: name the folder of an autoencoder")
    autoencoder, params = _autoencoder(settings.vae, settings.dtype)
    latent_shape = checked("encode.vae", codec(autoencoder).shape, images.shape)
    mesh = make_mesh(jax.local_devices())
    count = len(images.train) + len(images.heldout)
    text = embedded(settings.text, images.captions, count, mesh, settings.text_length, settings.dtype)
    about = describe(config, images, autoencoder, params, latent_shape, text)
    shards = shards_of(images, settings.shard)
    if jax.process_index() == 0:
        _claim(out, about)
    _together("claimed")
    if (out / INDEX).exists() and all((out / shard.file).exists() for shard in shards):
        say(f"{out} is finished")
        return out
    kind = record_type(about["fields"])
    mine = shards[jax.process_index() :: jax.process_count()]
    missing = [shard for shard in mine if not (out / shard.file).exists()]
    size = -(-settings.batch // mesh.size) * mesh.size
    records = make_records(images, autoencoder, params, text, mesh, settings.flip, size)
    steps = sum(_calls(shard, size) for shard in mine)
    done = steps - sum(_calls(shard, size) for shard in missing)
    with Progress(steps, done, size, log=say) as progress:
        for shard in missing:
            write_shard(out / shard.file, kind, _counted(records(shard), progress, done))
            done += _calls(shard, size)
    _together("encoded")
    if jax.process_index() == 0:
        finish(out, about, shards)
    say(f"{len(images.train):,} + {len(images.heldout):,} held out, latents {list(latent_shape)}: {out}")
    return out


def describe(
    config: ConfigDict,
    images: Dataset,
    autoencoder: Autoencoder,
    params: Params,
    latent_shape: tuple[int, int, int],
    text: Embedded | None,
) -> dict[str, Any]:
    """The index without its files: all that the bytes depend on."""
    settings = config.encode
    h, w, c = latent_shape
    taken = {name: record for name, record in images.records.items() if name in TAKEN}
    sizes = {} if text is None else {key: size for key, size in text.sizes._asdict().items() if size}
    fields = [["image", "float16", [h, w, 2 * c * (1 + settings.flip)]]]
    fields += [[name, dtype, list(shape)] for name, (shape, dtype) in taken.items()]
    fields += [] if text is None else [[n, dtype, list(s)] for n, (s, dtype) in embeddings(text.sizes).items()]
    weights = json_digest({path: array_digest(leaf) for path, leaf in flatten(params).items()})
    return plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "name": images.name,
            "fields": fields,
            "mirrored": settings.flip,
            "image_shape": images.shape,
            "classes": images.classes,
            "class_names": images.class_names,
            "source": images.fingerprint,
            "vae": {
                "folder": str(Path(settings.vae).expanduser().absolute()),
                "scaling": autoencoder.scaling,
                "shift": autoencoder.shift,
                "config": autoencoder.config,
                "weights": weights,
            },
            "text": text and {"source": text.source, "sizes": sizes, "weights": text.digest},
            "encode": settings.to_dict(),
        }
    )


def finish(out: Path, about: dict[str, Any], shards: list[Shard]) -> None:
    """Write the index, once every file is there and has as many records as it should. Raises DataError."""
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for shard in shards:
        path, count = out / shard.file, shard.stop - shard.start
        try:
            reader = ArrayRecordReader(str(path))
            there = reader.num_records()
            reader.close()
        except Exception as error:  # whatever a broken file provokes
            raise DataError(f"{path} is cut or broken: remove it and start again") from error
        if there != count:
            raise DataError(f"{path} has {there} records, not {count}: remove it and start again")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        splits[shard.split].append(
            {"file": shard.file, "records": count, "bytes": path.stat().st_size, "sha256": sha256}
        )
    write_json(out / INDEX, about | {"splits": splits})
    (out / UNFINISHED).unlink(missing_ok=True)


def _folder(config: ConfigDict) -> Path:
    path = config.data.get("path")
    if config.data.name != "latents" or not path:
        raise ConfigError("config.data: --mode=encode writes the data set 'latents' to config.data.path: name both")
    return Path(path).expanduser()


def _autoencoder(folder: str, dtype: str) -> tuple[Autoencoder, Params]:
    try:
        return load_autoencoder(Path(folder).expanduser(), dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.encode.vae: {error}") from error


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Make the folder, or see that what is there is of the same config. Raises ConfigError or DataError."""
    known = next((path for path in (out / INDEX, out / UNFINISHED) if path.exists()), None)
    if known is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"config.data.path: {out} exists and is no folder of latents: name another")
        write_json(out / UNFINISHED, about)
    else:
        try:
            stored = dict(read_json(known))
        except (ValueError, TypeError) as error:
            raise DataError(f"{known} cannot be read: {error}") from error
        splits = stored.pop("splits", None)
        if changed := differences(stored, about, MOVED, "in the folder"):
            raise ConfigError(f"config.data.path: {out} holds latents of another config: {'; '.join(changed)}")
        if splits is not None:
            check_shards(out, {"splits": splits}, missing=True)


def _together(what: str) -> None:
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"maskdiff_jax: {what}")


def _calls(shard: Shard, size: int) -> int:
    return -(-(shard.stop - shard.start) // size)


def _counted(parts: Iterator[Any], progress: Progress, done: int) -> Iterator[Any]:
    for number, value in enumerate(parts, 1):
        yield value
        progress.update(done + number)
