"""PyTorch's files read without PyTorch: what torch wrote is read right, what could do harm is refused."""

import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest

from maskdiff_jax.evaluate.features import torch_weights
from maskdiff_jax.evaluate.features.inception import shapes
from maskdiff_jax.evaluate.features.torch_files import LAYOUT, MAGIC, read_tensors
from maskdiff_jax.evaluate.features.torch_weights import convert, to_flax
from tests.evaluate.inception_inputs import draw, torch_name, torch_shape
from tests.evaluate.recorded_answers import FOLDER, tensors

FILES = ("tensors.pth", "tensors_before_1_6.pth")


class Call:
    """What pickles as a call of ``function(*arguments)`` at loading."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Named:
    """What pickles as a call of the function that ``text`` names, whether it exists or not."""

    def __init__(self, text, *arguments):
        self.text, self.arguments = text, arguments


class Pickler(pickle._Pickler):
    """Writes references to functions that are not here, and to storages, as torch does."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            module, name = obj.text.rsplit(".", 1)
            self.write(f"c{module}\n{name}\n".encode())
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.fields if isinstance(obj, Stored) else None


class Stored:
    def __init__(self, *fields):
        self.fields = fields


def dumped(value) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def archive(value, numbers=b"\0" * 24) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", dumped(value))
        zipped.writestr("archive/data/0", numbers)
    return file.getvalue()


def in_a_row(value, numbers=b"\0" * 24) -> bytes:
    parts = (MAGIC, LAYOUT, {"little_endian": True}, value, ["0"])
    return b"".join(map(dumped, parts)) + (6).to_bytes(8, "little") + numbers


def tensor(offset=0, shape=(2, 3), strides=(3, 1), dtype="FloatStorage", numel=6):
    kind = Stored("storage", dtype, "0", "cpu", numel)
    return Named("torch._utils._rebuild_tensor_v2", kind, offset, shape, strides, False, {})


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


def test_every_array_of_the_network_has_a_name_in_torch():
    """What torch calls bias of the classifier and count of batches is dropped, all else is there once, transposed."""
    tensors = {torch_name(name): np.zeros(torch_shape(shape), np.float32) for name, shape in shapes().items()}
    for name in ("Mixed_6b.branch7x7_2.conv.weight", "fc.weight"):
        tensors[name] = draw(name, tensors[name].shape)
    extra = {"fc.bias": np.zeros(1008, np.float32), "Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(1)}
    arrays = to_flax(tensors | extra)
    assert len(arrays) == len(tensors) == 5 * 94 + 1
    kernel = arrays["Mixed_6b/branch7x7_2/conv/kernel"]
    assert torch_shape(kernel.shape) == tensors["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert kernel[0, 5, 3, 2] == tensors["Mixed_6b.branch7x7_2.conv.weight"][2, 3, 0, 5]
    assert arrays["fc/kernel"][11, 7] == tensors["fc.weight"][7, 11]
    tensors.pop("Mixed_7a.branch3x3_1.bn.running_var")
    with pytest.raises(ValueError, match=r"^the tensors lack Mixed_7a/branch3x3_1/bn/var$"):
        to_flax(tensors)


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    harmful = tmp_path / "weights.pth"
    harmful.write_bytes(archive({"x": Call(os.system, "echo harm")}))
    with pytest.raises(SystemExit) as stop:
        torch_weights.main([str(harmful), str(tmp_path / "out.npz")])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and not printed.out and not (tmp_path / "out.npz").exists()
    assert printed.err == f"error: {harmful}: it asks for posix.system, and only tensors are read\n"


def test_a_name_that_promises_another_digest(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.write_bytes((FOLDER / FILES[0]).read_bytes())
    with pytest.raises(ValueError, match="not the one in its name: download it again from https://github"):
        convert(path, tmp_path / "out.npz")
    path = path.rename(tmp_path / "some.pth")
    with pytest.raises(ValueError, match=r"some\.pth: the tensors lack Conv2d_1a_3x3/bn/bias, .* and 465 more"):
        convert(path, tmp_path / "out.npz")
    with pytest.raises(ValueError, match=r"the name must end in \.npz"):
        convert(path, tmp_path / "out.safetensors")
