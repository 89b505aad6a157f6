"""SHA-256 digests of arrays and of JSON values: what a checkpoint must match to be believed."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AT_ONCE = 8  # leaves in this host's memory while a tree is described


def json_digest(value: Any) -> str:
    """The digest of a JSON value, independent of the order of its keys and of white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """The digest of an array's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """{path: {dtype, shape, sha256}} of every array of the tree; `...` stands for a leaf that is left out.

    A leaf that is sharded over hosts is gathered whole, and dropped once it is hashed, so the digest does not depend on
    the sharding and a host holds `AT_ONCE` of them and not the state; every process must call this together. Hashing
    releases the interpreter lock: as many threads.
    """
    leaves, room = flatten(tree), Semaphore(AT_ONCE)

    def digest(array: np.ndarray) -> str:
        try:
            return array_digest(array)
        finally:
            room.release()

    digests = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, leaf in leaves.items():  # all processes in the same order, as gathering needs all of them
            room.acquire()
            digests[path] = pool.submit(digest, host_array(leaf))
    return {path: form(leaf) | {"sha256": digests[path].result()} for path, leaf in leaves.items()}


def flatten(tree: Any) -> dict[str, Any]:
    """{"params/dense/kernel": leaf}, without the leaves that are `...`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves if leaf is not ...}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"dense/kernel": leaf} as {"dense": {"kernel": leaf}}: the inverse of `flatten` for trees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def form(leaf: Any) -> dict[str, Any]:
    """The dtype and shape of an array or of its abstract stand-in, as JSON."""
    return {"dtype": np.dtype(leaf.dtype).name, "shape": list(leaf.shape)}


def host_array(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array, in this host's memory."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
