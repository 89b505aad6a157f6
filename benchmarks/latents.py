"""How fast latents are read: shuffled batches of the training stream, of records as ``--mode=encode`` writes them.

    python -m benchmarks.latents --out=DIR [--records=20000 --shards=16 --batch=256 --seconds=5 --rounds=5]

Records hold the mean and standard deviation of latents of 32×32×4 in half precision, 16 KB each, and a label. They are
random, written to a temporary folder and read once before, so the disk's cache holds them: what is timed is the work of
the reader, not the disk. Pin the process to one core (``taskset -c 0``) for a rate per core; ``--prefetch=0`` has no
thread beside the one that waits. DIR gets latents.json. The bar is 5,000 records a second on a core.
"""

import argparse
import json
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from maskdiff_jax.data import Batches, Source, latents
from maskdiff_jax.data.latents import FORMAT, INDEX, VERSION
from maskdiff_jax.data.records import record_type, write_shard
from maskdiff_jax.train.files import write_json
from maskdiff_jax.train.provenance import provenance

BAR = 5000  # records a second on a core
SHAPE = (32, 32, 8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--prefetch", type=int, default=2, help="batches that are read ahead, by as many threads")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        source = latents(write(Path(folder), options.records, options.shards)).train
        for start in range(0, len(source), options.batch):  # into the cache
            source.fetch(np.arange(start, min(start + options.batch, len(source))))
        rates = [measure(source, options.batch, options.prefetch, options.seconds) for _ in range(options.rounds)]
    cores = len(os.sched_getaffinity(0))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    found = {"records_per_second": rates, "median": float(np.median(rates)), "cores": cores, "bar": BAR}
    write_json(options.out / "latents.json", settings | found | {"provenance": provenance(settings)})
    print(f"{found['median']:,.0f} records/s of 16 KB, median of {len(rates)} rounds, on {cores} cores (bar: {BAR:,})")


def write(folder: Path, records: int, shards: int) -> Path:
    """A folder of random latents, all but one file of them to train on."""
    rng = np.random.default_rng(0)
    kind = record_type([("image", "float16", SHAPE), ("label", "int32", ())])
    count = records // shards
    splits: dict[str, list[dict[str, object]]] = {"train": [], "heldout": []}
    for shard in range(shards + 1):
        path = folder / f"{shard}.array_record"
        image = rng.standard_normal((count, *SHAPE), np.float32).astype(np.float16)
        write_shard(path, kind, [{"image": image, "label": np.arange(count, dtype=np.int32) % 1000}])
        about = {"file": path.name, "records": count, "bytes": path.stat().st_size, "sha256": str(shard)}
        splits["train" if shard < shards else "heldout"].append(about)
    index = {
        "format": FORMAT,
        "version": VERSION,
        "name": "random",
        "fields": [["image", "float16", SHAPE], ["label", "int32", []]],
        "mirrored": False,
        "image_shape": [256, 256, 3],
        "classes": 1000,
        "class_names": [],
        "vae": {"folder": "", "scaling": 0.18215, "shift": 0.0},
        "text": None,
        "splits": splits,
    }
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def measure(source: Source, batch: int, prefetch: int, seconds: float) -> float:
    """Records a second of the training stream, from its third batch on."""
    with closing(Batches(source, batch, seed=0, prefetch=prefetch)) as batches:
        for _ in range(2):
            next(batches)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            count += len(next(batches)["image"])
        return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
