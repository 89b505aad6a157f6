"""The PyTorch side: torch-fidelity's Inception with weights from a file, and the two ways to resize."""

import sys
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional


def stand_in_torchvision() -> None:
    """Let torch-fidelity be imported without torchvision, of which its Inception, FID and KID use nothing."""
    names = ("datasets", "transforms", "transforms.functional", "models", "utils")
    modules = {name: types.ModuleType(name) for name in ("torchvision", *(f"torchvision.{name}" for name in names))}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules["torchvision.datasets"], name, type(name, (), {}))
    for name, module in modules.items():
        sys.modules.setdefault(name, module)


stand_in_torchvision()

from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402


def save(tensors: dict[str, np.ndarray], path: Path, archive: bool = True) -> None:
    """A .pth as torch writes it, as an archive (since 1.6) or as pickles in a row (before)."""
    torch.save(
        {name: torch.from_numpy(array) for name, array in tensors.items()},
        path,
        _use_new_zipfile_serialization=archive,
    )


def features(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """torch-fidelity's features of uint8 images [n, h, w, 3], and ADM's spatial ones, which it does not have."""
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=path)
    spatial = []
    network.Mixed_6d.register_forward_hook(lambda module, inputs, output: spatial.append(output))
    with torch.no_grad():
        pool, logits = network(torch.from_numpy(np.moveaxis(images, 3, 1).copy()))
    first = np.moveaxis(spatial[0].numpy()[:, :7], 1, 3).reshape(len(images), -1)
    return {"pool": pool.numpy(), "logits": logits.numpy(), "spatial": first}


def resized(images: np.ndarray, side: tuple[int, int], convention: str) -> np.ndarray:
    """Images [n, h, w, c] in 0..255 -> [n, *side, c], float32, as TensorFlow 1 or as PyTorch has them."""
    pixels = torch.from_numpy(np.moveaxis(images, 3, 1).astype(np.float32))
    if convention == "tf":
        result = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=side, align_corners=False)
    else:
        result = functional.interpolate(pixels, size=side, mode="bilinear", align_corners=False)
    return np.moveaxis(result.numpy(), 1, 3)
