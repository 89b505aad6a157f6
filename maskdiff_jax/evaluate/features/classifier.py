"""Features of a small classifier that is trained on the data set itself: for images that Inception has never seen.

They need labels, seconds for small images on a CPU and minutes for 32x32, and no file from anywhere. Distances between
them compare within a data set and a setting only.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from maskdiff_jax.data.pixels import to_float
from maskdiff_jax.data.source import digest
from maskdiff_jax.evaluate.features.base import Features, Given, Labelled, Make, check_batch, check_images, make_extract
from maskdiff_jax.models.classifier import classifier as network
from maskdiff_jax.models.extractor import Extractor
from maskdiff_jax.rng import key_for
from maskdiff_jax.train.digest import array_digest, flatten, nested
from maskdiff_jax.train.files import write_atomically
from maskdiff_jax.train.optim import adamw, cosine, make_optimizer
from maskdiff_jax.types import Array, Key, Params
from maskdiff_jax.weights.files import check_shapes, read_npz

VERSION = 1  # of network and training: one more where they change, so that no older file is taken for theirs


class Training(NamedTuple):
    """``steps`` of ``size`` images each, at a learning rate that falls to 0 as a cosine."""

    steps: int
    learning_rate: float
    size: int = 128


class Program(NamedTuple):
    """A network and its training, jitted: ``start(key) -> state``, ``step(state, images, labels) -> state``.

    A state is (parameters, that of the optimiser). ``features(params, images uint8) -> {name: array}``.
    """

    net: Extractor
    start: Callable[[Key], tuple[Params, Any]]
    step: Callable[..., tuple[Params, Any]]
    features: Callable[[Params, Array], dict[str, Array]]


def classifier(
    steps: int = 2000,
    width: int = 32,
    learning_rate: float = 1e-2,
    seed: int = 0,
    cache: str = "",
    batch: int = 256,
) -> Make:
    """pool [n, 4·width], the layer before the classes, and logits [n, classes], of a classifier trained on the spot.

    See `maskdiff_jax.models.classifier.classifier` for the network. ``given.train`` needs labels 0, 1, ...;
    ``about["heldout_accuracy"]`` is the share of ``given.heldout`` that the classifier gets right, None without labels.
    Same data, settings and kind of machine, same features.

    Args:
      steps: AdamW updates on 128 training images each, with 5 % of warm-up and weight decay 0.01.
      width, learning_rate, seed: of the network and its training.
      cache: the folder of trained classifiers, a file for each data set and setting; "" is ``given.cache``, where there
        is one: without either, nothing is kept.
      batch: images at a time when features are extracted, over all devices.

    Raises ValueError, in one line, for a number out of range and, once made, for data without labels.
    """
    check_batch(batch)
    training = Training(steps, learning_rate)
    _optimizer(training)  # it checks the numbers

    def make(given: Given) -> Features:
        seen, unseen = (None if read is None else read() for read in (given.train, given.heldout))
        images, labels = _checked(seen, given.shape)
        program = compiled(given.shape, int(labels.max()) + 1, width, training)
        key = digest(VERSION, width, training, seed, *_bytes(seen), *_bytes(unseen))
        folder = Path(cache) if cache else given.cache
        kept = None if folder is None else folder / f"classifier-{key[:16]}.npz"
        params = None if kept is None else _read(kept, program.net)
        if params is None:
            params = train(program, images, labels, training, seed)
            if kept is not None:
                write_atomically(kept, _npz(params))
        params = multihost_utils.broadcast_one_to_all(params)  # hosts must not differ by rounding
        extract = make_extract(program.features, jax.device_put(params), given, batch)
        about: dict[str, Any] = {"data": key, "steps": steps, "width": width, "seed": seed, "heldout_accuracy": None}
        if unseen is not None and unseen[1] is not None:
            answers = extract(unseen[0])["logits"].argmax(axis=1)
            about["heldout_accuracy"] = float(np.mean(answers == unseen[1]))
        identity = digest(*(array_digest(np.asarray(leaf)) for leaf in jax.tree.leaves(params)))
        return Features("classifier", program.net.dims, extract, batch, about, identity)

    return make


@cache
def compiled(shape: tuple[int, int, int], classes: int, width: int, training: Training) -> Program:
    """The programs for images of a shape in so many classes: one compilation for all data and seeds."""
    net, optimizer = network(shape, classes, width), _optimizer(training)

    def features(params: Params, images: Array) -> dict[str, Array]:
        return net.apply(params, to_float(images))

    def start(key: Key) -> tuple[Params, Any]:
        params = net.init(key)
        return params, optimizer.init(params)

    def step(state: tuple[Params, Any], images: Array, labels: Array) -> tuple[Params, Any]:
        params, momenta = state

        def loss(params: Params) -> Array:
            logits = features(params, images)["logits"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return optimizer.apply(jax.grad(loss)(params), momenta, params)

    return Program(net, jax.jit(start), jax.jit(step), features)


def train(program: Program, images: np.ndarray, labels: np.ndarray, training: Training, seed: int) -> Params:
    """Parameters that minimise the cross-entropy on uint8 images [n, h, w, c] and their labels [n].

    Every image comes once in an epoch, in an order that depends on the seed alone.
    """
    state = program.start(key_for(jax.random.key(seed), "classifier"))
    random = np.random.Generator(np.random.Philox(key=seed))
    epochs = -(-training.steps * training.size // len(images))
    order = np.concatenate([random.permutation(len(images)) for _ in range(epochs)])
    for ids in order[: training.steps * training.size].reshape(training.steps, training.size):
        state = program.step(state, images[ids], labels[ids])
    return jax.device_get(state[0])


def _optimizer(training: Training):
    rate = cosine(training.steps, training.learning_rate, warmup=training.steps // 20)
    return make_optimizer(adamw(), rate, clip=1.0, ema=())


def _checked(data: Labelled | None, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    if data is None or data[1] is None:
        raise ValueError("classifier features need training images with labels: choose other features")
    check_images(data[0], shape)
    labels = np.asarray(data[1], np.int32)
    if labels.shape != (len(data[0]),) or labels.min() < 0:
        raise ValueError(f"labels must be 0, 1, ... for {len(data[0])} images, got shape {list(labels.shape)}")
    return data[0], labels


def _bytes(data: Labelled | None) -> tuple[object, ...]:
    images, labels = (None, None) if data is None else data
    return tuple(x if x is None else digest(x.shape, x.dtype.name, x.tobytes()) for x in (images, labels))


def _npz(params: Params) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **flatten(params))
    return buffer.getvalue()


def _read(path: Path, net: Extractor) -> Params | None:
    """The parameters of a file; None where there is none, or it is broken: then they are trained again."""
    wanted = flatten(jax.eval_shape(net.init, jax.random.key(0)))
    try:
        arrays = read_npz(path.read_bytes())
        check_shapes(arrays, {name: leaf.shape for name, leaf in wanted.items()}, str(path))
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
    return nested(arrays)
