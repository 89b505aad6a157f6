"""Features of Inception-v3, of which FID, sFID, the Inception Score and others are made; weights from a local file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.evaluate.features.base import Features, Given, Make, check_batch, make_extract
from maskdiff_jax.evaluate.features.resize import centres, corners, resize
from maskdiff_jax.models.inception import SIDE
from maskdiff_jax.models.inception import inception as network
from maskdiff_jax.train.digest import flatten, nested
from maskdiff_jax.types import Array, Params
from maskdiff_jax.weights.files import check_shapes, read_weights

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"


def tensorflow(images: Array) -> Array:
    """Pixels 0..255 as the released graph has them: `resize.corners`, then (x - 128)/128."""
    return (resize(images, (SIDE, SIDE), corners) - 128) / 128


def torch(images: Array) -> Array:
    """As pytorch-fid has them: `resize.centres`, then 2·x/255 - 1."""
    return resize(images, (SIDE, SIDE), centres) * (2 / 255) - 1


CONVENTIONS: dict[str, Callable[[Array], Array]] = {"tf": tensorflow, "torch": torch}


def prepared(images: Array, convention: str) -> Array:
    """uint8 images [b, h, w, 1 or 3] -> [b, 299, 299, 3] in [-1, 1] in one of the `CONVENTIONS`; grey is made three."""
    x = CONVENTIONS[convention](images)
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def inception(weights: str, sha256: str = "", convention: str = "tf", batch: int = 64) -> Make:
    """pool [n, 2048], logits [n, 1008] without bias, spatial [n, 2023]: see `maskdiff_jax.models.inception.inception`.

    Args:
      weights: an .npz or .safetensors file under the names of this network, as
        `maskdiff_jax.evaluate.features.torch_weights` writes it.
      sha256: of that file, in full or its beginning; "" accepts any. The report has it in any case.
      convention: how images come to 299x299 in [-1, 1]. 'tf': that of the released graph, hence of the first FID, of
        ADM's evaluation and of torch-fidelity. 'torch': that of pytorch-fid. The two do not compare.
      batch: images at a time, over all devices.

    Grey images count as three equal channels. Raises ValueError, in one line, for a missing or broken file, another
    digest, names or shapes, a convention that there is not, and, once made, images of other than 1 or 3 channels.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r}: choose from {', '.join(CONVENTIONS)}")
    check_batch(batch)
    params, digest = load(weights, sha256)
    net = network()

    def make(given: Given) -> Features:
        if given.shape[2] not in (1, 3):
            raise ValueError(f"Inception sees images of 1 or 3 channels, not of {given.shape[2]}")

        def features(params: Params, images: Array) -> dict[str, Array]:
            return net.apply(params, prepared(images, convention))

        about: dict[str, Any] = {"weights": weights, "sha256": digest, "convention": convention}
        extract = make_extract(features, jax.device_put(params), given, batch)
        return Features("inception", net.dims, extract, batch, about, f"{digest} {convention}")

    return make


def load(path: str, sha256: str = "") -> tuple[Params, str]:
    """The parameters of the network from a file, and its SHA-256. Raises ValueError as `inception`."""
    if not Path(path).is_file():
        converter = f"python -m maskdiff_jax.evaluate.features.torch_weights {FILE} {path}"
        raise ValueError(f"weights={path!r} not found: download {URL} and run `{converter}`")
    arrays, digest = read_weights(Path(path), sha256)
    check_shapes(arrays, shapes(), f"weights={path!r}")
    return nested(arrays), digest


@cache
def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every array of the network, by its flat name."""
    tree = jax.eval_shape(network().init, jax.random.key(0))
    return {name: tuple(np.shape(leaf)) for name, leaf in flatten(tree).items()}
