"""PyTorch's files read without PyTorch: what torch wrote is read right, what could do harm is refused."""

import os
import pickle
import re

import numpy as np
import pytest

from maskdiff_jax.weights import convert
from maskdiff_jax.weights.folders import read_tensors as read_safetensors
from maskdiff_jax.weights.torch_files import read_tensors
from tests.evaluate.recorded_answers import FOLDER, tensors
from tests.weights.torch_pickles import Call, Named, archive, dumped, in_a_row, tensor, write_archive

FILES = ("tensors.pth", "tensors_before_1_6.pth")
LAYOUTS = {"archive": archive, "in_a_row": in_a_row}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request):
    return request.param


@pytest.mark.parametrize("name", FILES)
def test_what_torch_wrote(name):
    """Recorded from torch itself: views, halves and counts, in both layouts, with a module's version note."""
    arrays = read_tensors((FOLDER / name).read_bytes())
    assert arrays.keys() == tensors().keys()
    for key, array in tensors().items():
        np.testing.assert_array_equal(arrays[key], array, strict=True)


def test_what_this_file_writes_is_read(layout):
    """The forgeries below fail for what they forge, not for how they are written."""
    numbers = np.arange(6, dtype=np.float32)
    arrays = read_tensors(layout({"x": tensor()}, numbers.tobytes()))
    np.testing.assert_array_equal(arrays["x"], numbers.reshape(2, 3))


@pytest.mark.parametrize(
    "harmful", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load", "collections.Counter"]
)
def test_functions_are_refused_by_name(layout, harmful):
    with pytest.raises(ValueError, match=f"^it asks for {re.escape(harmful)}, and only tensors are read$"):
        read_tensors(layout({"x": tensor(), "y": Named(harmful, "echo harm")}))


def test_nothing_is_run(layout, tmp_path):
    """A pickle that does make a folder when Python reads it makes none here."""
    harm = {"x": Call(os.mkdir, str(tmp_path / "harm"))}
    with pytest.raises(ValueError, match=r"^it asks for posix\.mkdir"):
        read_tensors(layout(harm))
    assert not list(tmp_path.iterdir())
    pickle.loads(dumped(harm))
    assert (tmp_path / "harm").is_dir()


@pytest.mark.parametrize(
    "beyond",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 3)},
        {"strides": (4, 1)},
        {"strides": (-3, 1)},
        {"shape": (-2, 3)},
        {"dtype": "DoubleStorage", "numel": 3},
        {"shape": (10**12,), "strides": (0,)},
    ],
    ids=str,
)
def test_views_beyond_the_numbers_are_refused(layout, beyond):
    with pytest.raises(ValueError, match=r"reaches beyond its [36] numbers"):
        read_tensors(layout({"x": tensor(**beyond)}))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([tensor()], "it holds a list, not a dict of tensors"),
        ({"state_dict": {"x": tensor()}}, "under 'state_dict' it holds a dict, not a tensor"),
        ({"x": tensor(dtype="FloatStorage2")}, "it refers to 'storage' of 'FloatStorage2'"),
        ({"x": Named("torch._utils._rebuild_tensor_v2", 1, 0, (1,), (1,))}, "not a view of a storage"),
    ],
    ids=["list", "nested", "dtype", "no storage"],
)
def test_anything_but_tensors_is_refused(layout, value, error):
    with pytest.raises(ValueError, match=error):
        read_tensors(layout(value))


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_raise_one_kind_of_error(name):
    """Cut anywhere, or with any byte changed, a file is refused in one line or read as tensors."""
    whole = (FOLDER / name).read_bytes()
    for cut in range(0, len(whole), 7):
        with pytest.raises(ValueError, match=r"\A.*\Z"):
            read_tensors(whole[:cut])
    random = np.random.default_rng(0)
    for at in random.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[at] ^= random.integers(1, 256)
        try:
            assert all(isinstance(array, np.ndarray) for array in read_tensors(bytes(changed)).values())
        except ValueError as error:
            assert "\n" not in str(error)


def test_a_file_becomes_safetensors(tmp_path, capsys):
    arrays = {"b.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, np.float32)}
    source, target = write_archive(tmp_path / "w.bin", arrays), tmp_path / "w.safetensors"
    convert.main([str(source), str(target)])
    assert capsys.readouterr().out == f"{target}: 2 tensors from {source}\n"
    found = read_safetensors(target)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_what_is_not_converted_is_one_line(tmp_path, capsys):
    harmful, target = tmp_path / "w.bin", tmp_path / "w.safetensors"
    harmful.write_bytes(archive({"x": Call(os.system, "echo harm")}))
    there = tmp_path / "there.safetensors"
    there.touch()
    for where, said in (
        (target, f"{harmful}: it asks for posix.system, and only tensors are read"),
        (there, f"{there} exists: name another file"),
        (tmp_path / "w.npz", f"{tmp_path / 'w.npz'}: the name must end in .safetensors"),
    ):
        with pytest.raises(SystemExit) as stop:
            convert.main([str(harmful), str(where)])
        printed = capsys.readouterr()
        assert stop.value.code == 2 and not printed.out and printed.err == f"error: {said}\n"
    assert not target.exists()
