"""Weights from files: both formats, digests, and files that are not what they should be."""

import hashlib
import json
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.digest import nested
from maskdiff_jax.weights.files import check_shapes, read_weights
from maskdiff_jax.weights.folders import (
    read_folder,
    read_metadata,
    read_tensors,
    weight_files,
    write_folder,
    write_tensors,
)
from tests.weights.torch_pickles import write_archive

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full((1, 2), 0.5, np.float32)}


def safetensors(arrays, names) -> bytes:
    """The published format, written down once more."""
    header, body = {"__metadata__": {"from": "test"}}, b""
    for name, array in arrays.items():
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64"}


def write(path, arrays=ARRAYS):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(safetensors(arrays, NAMES))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_and_digest(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}")
    arrays, digest = read_weights(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert read_weights(path, digest)[1] == read_weights(path, digest[:8].upper())[1] == digest
    with pytest.raises(ValueError, match=f"have the SHA-256 {digest}, not 0000"):
        read_weights(path, "0000")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_become_float32(tmp_path, dtype):
    """0 to 5 and a half are exact in all of them."""
    path = write(tmp_path / "w.safetensors", {name: array.astype(jnp.dtype(dtype)) for name, array in ARRAYS.items()})
    for name, array in read_weights(path)[0].items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_broken_files_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}")
    whole = path.read_bytes()
    for cut in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"cannot be read as \{suffix}"):
            read_weights(path)


def test_objects_and_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_weights(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="x holds int64, not floating-point numbers"):
        read_weights(write(tmp_path / "w.safetensors", {"x": np.zeros(2, np.int64)}))
    with pytest.raises(ValueError, match=r"choose a file of \.npz, \.safetensors"):
        read_weights(tmp_path / "w.pth")


def test_names_are_paths():
    assert nested({"a/b/c": 1, "a/d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_names_and_shapes_must_agree():
    shapes = {name: array.shape for name, array in ARRAYS.items()}
    check_shapes(ARRAYS, shapes, "it")
    with pytest.raises(ValueError, match=r"^it lack c, d$"):
        check_shapes(ARRAYS, shapes | {"c": (1,), "d": (1,)}, "it")
    with pytest.raises(ValueError, match=r"^it lack c0, c1, c2, c3, c4 and 2 more \(7 in all\)$"):
        check_shapes(ARRAYS, shapes | {f"c{i}": (1,) for i in range(7)}, "it")
    with pytest.raises(ValueError, match=r"^it have b, which the network does not have$"):
        check_shapes(ARRAYS, {"a/kernel": (2, 3)}, "it")
    with pytest.raises(ValueError, match=r"b has shape \[1, 2\], not \[2, 1\]"):
        check_shapes(ARRAYS, shapes | {"b": (2, 1)}, "it")


def test_what_is_written_is_the_same_bytes_again(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.ones(1, np.float32)}
    metadata = {name: name * 2 for name in "zxyäcd"}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, tensors, metadata if name == "one" else dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_metadata(tmp_path / "one") == metadata
    for name, array in read_tensors(tmp_path / "one").items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


def test_a_folder_of_several_files(tmp_path):
    """The index says in which file a tensor is; only files of the folder are read."""
    write_folder(tmp_path, {"x": 1}, {"a": ARRAYS["b"]}, "model")
    assert read_folder(tmp_path)[0] == {"x": 1}
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    write_tensors(tmp_path / "model-2.safetensors", {"c": ARRAYS["a/kernel"]})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}))
    assert {name: array.shape for name, array in read_folder(tmp_path)[1].items()} == {"a": (1, 2), "c": (2, 3)}
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    with pytest.raises(ValueError, match="not a safetensors file of its folder"):
        read_folder(tmp_path)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_variant_is_read_where_there_is_nothing_else(tmp_path, variant):
    """In one file or, by an index, in several, in its own numbers."""
    dtype = jnp.dtype({"fp16": "float16", "bf16": "bfloat16"}[variant])
    half = {name: array.astype(dtype) for name, array in ARRAYS.items()}
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path / f"model.{variant}.safetensors", half)
    tensors = read_folder(tmp_path)[1]
    assert {name: (array.dtype, array.tolist()) for name, array in tensors.items()} == {
        name: (dtype, array.tolist()) for name, array in half.items()
    }
    parts = {name: f"model.{variant}-{i}.safetensors" for i, name in enumerate(half)}
    for name, file in parts.items():
        write_tensors(tmp_path / file, {name: half[name]})
    index = tmp_path / f"model.safetensors.index.{variant}.json"
    index.write_text(json.dumps({"weight_map": parts}))
    (tmp_path / f"model.{variant}.safetensors").unlink()
    files = {"model.safetensors.index.json": index} | {file: tmp_path / file for file in parts.values()}
    assert weight_files(tmp_path) == files and read_folder(tmp_path)[1].keys() == half.keys()
    write_tensors(tmp_path / "model.safetensors", ARRAYS)
    assert weight_files(tmp_path) == {"model.safetensors": tmp_path / "model.safetensors"}
    assert read_folder(tmp_path)[1]["b"].dtype == np.float32


def test_a_folder_without_weights_and_one_with_a_pickle(tmp_path):
    """The line says how the pickle becomes what is read."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no diffusion_pytorch_model\.safetensors or model\.safetensors"):
        read_folder(tmp_path)
    write_archive(tmp_path / "pytorch_model.bin", ARRAYS)
    with pytest.raises(ValueError, match=r"holds pytorch_model\.bin, a pickle, which is not read: python -m") as caught:
        read_folder(tmp_path)
    module, *arguments = str(caught.value).partition("python -m ")[2].split()
    import_module(module).main(arguments)
    assert {name: array.tolist() for name, array in read_folder(tmp_path)[1].items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds list, not an object"):
        read_folder(tmp_path)
