"""From a Flax NNX module to the library's `Model`: two pure functions over a plain dict of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from maskdiff_jax.rng import key_for
from maskdiff_jax.types import Array, Cond, Key, Model, Output, Params, Tokens


def from_nnx(
    make_module: Callable[[Any], Any], image_shape: tuple[int, int, int], tokens: Tokens | None = None
) -> Model:
    """The `Model` of the module that ``make_module(nnx.Rngs)`` builds, for images of ``image_shape`` (h, w, c).

    The module is called as ``module(x, level, cond)``, and as ``module(x, level, cond, visible=ids)`` where it has
    ``tokens``; ids [b, k] or None for all. It returns an `Output` or its prediction alone: [b, h, w, c], or
    [b, k, p, p, c] with tokens.

    ``params`` holds the values of its ``nnx.Param`` as nested dicts keyed by attribute (a list's by "0", "1", …).
    ``apply`` works on a copy: what a call writes into the module is dropped. With ``train`` the copy is in NNX's
    training mode, and its generators (those of dropout, of ``nnx.Rngs`` attributes) are all derived from ``key``.

    Raises ValueError for a module with state that is not a parameter (running statistics, caches, arrays as
    attributes), naming it; for ``tokens`` that do not tile the image; where an answer has another shape; where a module
    with generators is to train without a key.
    """
    from flax import nnx  # a quarter of a second, paid by those who use it

    module = nnx.eval_shape(lambda: make_module(nnx.Rngs(0)))
    graph, learned, generators, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    fixed = [f"{_name(path)} ({type(leaf).__name__})" for path, leaf in nnx.to_flat_state(rest)]
    for path, part in nnx.iter_modules(module):  # NNX takes an array that is made under a trace for a static attribute
        fixed += [f"{_name((*path, name))} (array)" for name, value in vars(part).items() if isinstance(value, Tracer)]
    if fixed:
        raise ValueError(
            f"from_nnx: {', '.join(fixed)} is neither a parameter nor a generator, and pure functions keep no other "
            "state: make it an nnx.Param or compute it in __call__"
        )
    if tokens is not None and tuple(side * tokens.patch for side in tokens.grid) != image_shape[:2]:
        raise ValueError(f"from_nnx: {tokens} does not tile an image of {image_shape[0]}×{image_shape[1]}")
    random = bool(nnx.to_flat_state(generators))

    def init(key: Key) -> Params:
        return _plain(nnx.to_pure_dict(nnx.state(make_module(nnx.Rngs(key)), nnx.Param)))

    def seeded(path: tuple, leaf: Any, key: Key) -> Any:
        if isinstance(leaf, nnx.RngKey):
            return leaf.replace(jax.random.split(key_for(key, _name(path)), leaf.shape))
        return leaf.replace(jnp.zeros(leaf.shape, leaf.dtype))

    def apply(
        params: Params,
        x: Array,
        level: Array,
        cond: Cond,
        *,
        visible: Any = None,
        train: bool = False,
        key: Key | None = None,
    ) -> Output:
        if key is None and train and random:
            raise ValueError("from_nnx: this module draws random numbers: apply(..., train=True) needs a key")
        root = jax.random.key(0) if key is None else key
        module = nnx.merge(
            graph,
            nnx.map_state(lambda path, leaf: leaf.replace(_at(params, path)), learned),
            nnx.map_state(lambda path, leaf: seeded(path, leaf, root), generators),
        )
        if train:
            module.train()
        else:
            module.eval()
        answer = module(x, level, cond) if tokens is None else module(x, level, cond, visible=visible)
        out: Any = answer if isinstance(answer, Output) else Output(answer, visible)
        expected = _answer(x.shape, tokens, visible)
        if out.prediction.shape != expected:
            raise ValueError(f"from_nnx: the module answers {list(out.prediction.shape)}, expected {list(expected)}")
        return out

    return Model(init, apply, tokens)


def _answer(image: tuple[int, ...], tokens: Tokens | None, visible: Array | None) -> tuple[int, ...]:
    if tokens is None:
        return image
    count = tokens.grid[0] * tokens.grid[1] if visible is None else visible.shape[1]
    return (image[0], count, tokens.patch, tokens.patch, image[-1])


def _plain(tree: Any) -> Any:
    """Keys as strings: a checkpoint's paths, and sortable beside one another."""
    return {str(key): _plain(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _at(params: Params, path: tuple) -> Array:
    for key in path:
        params = params[str(key)]
    return params


def _name(path: tuple) -> str:
    return ".".join(str(key) for key in path)
