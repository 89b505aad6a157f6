"""Inception's weights from PyTorch's names and axes to ours, and the command that converts its file."""

import os

import numpy as np
import pytest

from maskdiff_jax.evaluate.features import torch_weights
from maskdiff_jax.evaluate.features.inception import shapes
from maskdiff_jax.evaluate.features.torch_weights import convert, to_flax
from tests.evaluate.inception_inputs import draw, torch_name, torch_shape
from tests.evaluate.recorded_answers import FOLDER
from tests.weights.torch_pickles import Call, archive


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
    path.write_bytes((FOLDER / "tensors.pth").read_bytes())
    with pytest.raises(ValueError, match="not the one in its name: download it again from https://github"):
        convert(path, tmp_path / "out.npz")
    path = path.rename(tmp_path / "some.pth")
    with pytest.raises(ValueError, match=r"some\.pth: the tensors lack Conv2d_1a_3x3/bn/bias, .* and 465 more"):
        convert(path, tmp_path / "out.npz")
    with pytest.raises(ValueError, match=r"the name must end in \.npz"):
        convert(path, tmp_path / "out.safetensors")
