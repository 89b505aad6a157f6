"""Small autoencoders, folders of latents and tars of images for the tests."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from maskdiff_jax.data.latents import FORMAT, INDEX, VERSION
from maskdiff_jax.data.records import record_type, write_shard
from maskdiff_jax.models.autoencoder import autoencoder_kl
from maskdiff_jax.weights.autoencoder import save_autoencoder
from tests.data.pictures import noise
from tests.models.perturb import random_params

TINY_VAE = {"block_out_channels": [4, 4], "norm_num_groups": 2, "scaling_factor": 0.5, "shift_factor": 0.1}


def tiny_vae(folder: Path, **changed) -> Path:
    """A random autoencoder that halves sides, of 4 channels, in its standard folder."""
    autoencoder = autoencoder_kl(TINY_VAE | changed)
    save_autoencoder(folder, autoencoder, random_params(autoencoder.init, scale=0.3))
    return folder


def arrays(
    count: int,
    seed: int,
    mirrored: bool = False,
    text: tuple[int, int, int] | None = None,
    classes: int = 3,
    side: int = 4,
) -> dict[str, np.ndarray]:
    """The records of ``count`` images as arrays: latents of 4×4×2 of images of 8×8; ``text``: (l, d, p)."""
    rng = np.random.default_rng(seed)
    found = {"image": rng.random((count, side, side, 4 * (1 + mirrored))).astype(np.float16)}
    found |= {"label": (np.arange(count) % classes).astype(np.int32)} if classes else {}
    if text is not None:
        length, width, pooled = text
        found["text"] = rng.standard_normal((count, length, width)).astype(np.float16)
        found["text_mask"] = np.arange(length) < rng.integers(0, length + 1, (count, 1))
        found["pooled"] = rng.standard_normal((count, pooled)).astype(np.float16)
    return found


def write_latents(folder: Path, train: int = 20, heldout: int = 6, shard: int = 8, **options) -> Path:
    """A finished folder of `arrays`, without an autoencoder."""
    folder.mkdir(parents=True)
    splits = {}
    for seed, (split, count) in enumerate({"train": train, "heldout": heldout}.items()):
        whole = arrays(count, seed, **options)
        fields = [[name, array.dtype.name, list(array.shape[1:])] for name, array in whole.items()]
        splits[split] = []
        for start in range(0, count, shard):
            name = f"{split}-{start}.array_record"
            part = {key: array[start : start + shard] for key, array in whole.items()}
            write_shard(folder / name, record_type(fields), [part])
            about = {"file": name, "records": len(part["image"]), "sha256": f"{seed} {start}"}
            splits[split].append(about | {"bytes": (folder / name).stat().st_size})
    text = options.get("text")
    index = {
        "format": FORMAT,
        "version": VERSION,
        "name": "random",
        "fields": fields,
        "mirrored": options.get("mirrored", False),
        "image_shape": [2 * options.get("side", 4)] * 2 + [3],
        "classes": options.get("classes", 3),
        "class_names": [],
        "vae": {"folder": "/nowhere", "scaling": 0.5, "shift": 0.25},
        "text": text and {"source": "/nowhere", "sizes": dict(zip(SIZES, text, strict=True))},
        "splits": splits,
    }
    (folder / INDEX).write_text(json.dumps(index))
    return folder


SIZES = ("text_length", "text_width", "pooled_width")


def write_tar(path: Path, samples: dict[str, dict[str, object]]) -> Path:
    """A tar of samples by their stems: extension -> pixels, text, number or object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for stem, files in samples.items():
            for extension, content in files.items():
                data = _bytes(extension, content)
                info = tarfile.TarInfo(f"{stem}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def captioned(count: int, first: int = 0, side: int = 8) -> dict[str, dict[str, object]]:
    """Samples with classes and captions; every third lacks a caption."""
    return {
        f"{i:04d}": {"png": noise(i, side, side + i % 3), "cls": i % 2} | ({"txt": f" cat {i}\n"} if i % 3 else {})
        for i in range(first, first + count)
    }


def _bytes(extension: str, content: object) -> bytes:
    if isinstance(content, np.ndarray):
        file = io.BytesIO()
        Image.fromarray(content).save(file, "PNG" if extension == "png" else "JPEG")
        return file.getvalue()
    if isinstance(content, bytes):
        return content
    return (json.dumps(content) if extension == "json" else str(content)).encode()
