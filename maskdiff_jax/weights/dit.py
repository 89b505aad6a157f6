"""A DiT in other people's formats: diffusers' ``DiTTransformer2DModel``, and the checkpoints of its authors.

Both are the network of `models.dit` with a label as a vector, up to names, axes and what is fused, and in both the
level is the index 0..T-1 of a table of T steps. They differ in two places: diffusers has an embedder of level and label
in every block, where the authors and `models.dit` have one for all; and it counts the rates of the level's features in
another way. So ``level_features`` is 'dit' for networks of the authors and 'diffusers' for those of diffusers.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskdiff_jax.models.dit import PRESETS
from maskdiff_jax.models.sizes import cond_shape
from maskdiff_jax.tokens import sincos_2d
from maskdiff_jax.types import Params
from maskdiff_jax.weights.dit_layout import Facts as Facts
from maskdiff_jax.weights.dit_layout import Names, from_names, leaves_of, shapes_of, sizes_of, to_names
from maskdiff_jax.weights.files import as_float32, check_shapes

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second until the first was split from it
FIXED = {  # what diffusers leaves open and a DiT does not
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6, 1e-5),  # of one norm in two: the authors' is the first, and so is ours
}
SIZES = {"in_channels": 4, "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000}  # diffusers' defaults
SIZES |= {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28}

DIFFUSERS = Names(
    "transformer_blocks",
    {
        "modulation/linear": "norm1.linear",
        "attention/qkv": "attn1.to_qkv",  # to_q, to_k and to_v
        "attention/out": "attn1.to_out.0",
        "mlp/hidden": "ff.net.0.proj",
        "mlp/out": "ff.net.2",
    },
    {
        "embed": "pos_embed.proj",
        "level/hidden": "emb.timestep_embedder.linear_1",  # emb: norm1.emb of every block
        "level/out": "emb.timestep_embedder.linear_2",
        "conditions_label/table": "emb.class_embedder.embedding_table",
        "final/modulation/linear": "proj_out_1",
        "final/linear": "proj_out_2",
    },
)
PUBLISHED = Names(
    "blocks",
    {
        "modulation/linear": "adaLN_modulation.1",
        "attention/qkv": "attn.qkv",
        "attention/out": "attn.proj",
        "mlp/hidden": "mlp.fc1",
        "mlp/out": "mlp.fc2",
    },
    {
        "embed": "x_embedder.proj",
        "level/hidden": "t_embedder.mlp.0",
        "level/out": "t_embedder.mlp.2",
        "conditions_label/table": "y_embedder.embedding_table",
        "final/modulation/linear": "final_layer.adaLN_modulation.1",
        "final/linear": "final_layer.linear",
    },
)
_POSITIONS = "pos_embed"  # which the authors keep with the weights
_EMBEDDER = "transformer_blocks.{}.norm1."


def to_diffusers(params: Params, facts: Facts) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """``config.json`` and the tensors of diffusers' DiT from the parameters of `models.dit`, float32.

    The embedder of level and label is copied into every block. Raises ValueError, in one line, for a network that is
    none of theirs, with what would make it one.
    """
    sizes = sizes_of(facts, "diffusers")
    side, _, channels = facts.image_shape
    config = {
        "_class_name": CLASSES[0],
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": sizes.width // sizes.heads,
        "dropout": 0.0,
        "in_channels": channels,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,  # of nothing
        "norm_type": "ada_norm_zero",
        "num_attention_heads": sizes.heads,
        "num_embeds_ada_norm": cond_shape(facts.classes).classes,
        "num_layers": sizes.depth,
        "out_channels": channels * (2 if sizes.learned_variance else 1),
        "patch_size": sizes.patch,
        "sample_size": side,
        "upcast_attention": False,
    }
    return config, _spread(to_names(leaves_of(params, facts), facts, DIFFUSERS), sizes.depth)


def from_diffusers(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[Facts, Params]:
    """The facts and the parameters, float32, of a DiT from the ``config.json`` and the tensors of diffusers.

    The network answers as diffusers' does. The authors' weights, which are published in this format too, were trained
    with ``level_features`` = 'dit', which is then to be put into the options.

    Raises ValueError, in one line, for another network, missing or strange tensors, and embedders that are not the same
    in all blocks.
    """
    if (name := config.get("_class_name", CLASSES[0])) not in CLASSES:
        raise ValueError(f"config.json is of a {name}, not of a {CLASSES[0]}")
    for key, choices in FIXED.items():
        if (value := config.get(key, choices[0])) not in choices:
            raise ValueError(f"config.json has {key}={value!r}, and a DiT has {' or '.join(map(repr, choices))}")
    has = {"out_channels": None, **SIZES, **config}
    if bad := [key for key in SIZES if not isinstance(has[key], int) or has[key] < 1]:
        raise ValueError(f"config.json has {bad[0]}={has[bad[0]]!r}, which is not a whole number of at least 1")
    side, channels, depth = has["sample_size"], has["in_channels"], has["num_layers"]
    answered = has["out_channels"] or channels
    if answered not in (channels, 2 * channels):
        raise ValueError(f"config.json has out_channels={answered}, and a DiT has {channels}, or twice that")
    options = {
        "patch": has["patch_size"],
        "width": has["num_attention_heads"] * has["attention_head_dim"],
        "depth": depth,
        "heads": has["num_attention_heads"],
        "learned_variance": answered != channels,
        "level_scale": 1.0,
        "level_features": "diffusers",
    }
    facts, source = Facts((side, side, channels), has["num_embeds_ada_norm"], options), "the tensors of diffusers' DiT"
    shapes = shapes_of(facts)
    blank = {path: np.empty(leaf.shape, "V0") for path, leaf in shapes.items()}
    wanted = _spread(to_names(blank, facts, DIFFUSERS), depth)
    check_shapes(tensors, {name: array.shape for name, array in wanted.items()}, source)
    return facts, from_names(_gathered(tensors, depth), shapes, facts, DIFFUSERS, source)


def to_published(params: Params, facts: Facts) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint of the authors from the parameters of `models.dit`, float32.

    Raises ValueError, in one line, for a network that is none of theirs, with what would make it one.
    """
    sizes, side = sizes_of(facts, "dit"), facts.image_shape[0]
    rows = side // sizes.patch
    return to_names(leaves_of(params, facts), facts, PUBLISHED) | {
        _POSITIONS: sincos_2d(sizes.width, (rows, rows))[None]
    }


def from_published(tensors: Mapping[str, np.ndarray], heads: int | None = None) -> tuple[Facts, Params]:
    """The facts and the parameters, float32, of a DiT from a checkpoint of its authors.

    ``heads`` does not stand in it; by default that of the published size of its width. Raises ValueError, in one line,
    for other tensors, and for positions that are not the fixed ones.
    """
    source = "the tensors of the published DiT"
    patches, label = "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
    last = "final_layer.linear.bias"
    usual = {preset["width"]: preset["heads"] for preset in PRESETS.values()}
    for name, axes in {patches: 4, label: 2, last: 1, _POSITIONS: 3}.items():
        if name not in tensors or tensors[name].ndim != axes:
            raise ValueError(f"{source} lack {name} with {axes} axes")
    width, channels, patch, _ = tensors[patches].shape
    if heads is None and width not in usual:
        raise ValueError(f"heads=None: no published DiT has the width {width}, so say how many")
    rows = round(tensors[_POSITIONS].shape[1] ** 0.5)
    positions, fixed = as_float32(_POSITIONS, tensors[_POSITIONS]), sincos_2d(width, (rows, rows))[None]
    if positions.shape != fixed.shape or not np.allclose(positions, fixed, rtol=0, atol=1e-3):
        raise ValueError(f"{source}: {_POSITIONS} is not that of a square of {rows}×{rows} tokens")
    options = {
        "patch": patch,
        "width": width,
        "depth": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        "heads": usual[width] if heads is None else heads,
        "learned_variance": tensors[last].shape[0] != patch * patch * channels,
        "level_scale": 1.0,
    }
    facts = Facts((rows * patch, rows * patch, channels), tensors[label].shape[0] - 1, options)
    learned = {name: array for name, array in tensors.items() if name != _POSITIONS}
    return facts, from_names(learned, shapes_of(facts), facts, PUBLISHED, source)


def _spread(tensors: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """As diffusers has them: an embedder in each block, and queries, keys and values apart."""
    spread: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if name.startswith("emb."):
            spread |= {_EMBEDDER.format(i) + name: array for i in range(depth)}
        elif ".to_qkv." in name:
            parts = zip("qkv", np.split(array, 3), strict=True)
            spread |= {name.replace("to_qkv", f"to_{part}"): third for part, third in parts}
        else:
            spread[name] = array
    return spread


def _gathered(tensors: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """The inverse of `_spread`. Raises ValueError where the embedders of the blocks are not the same, bit for bit."""
    first = {name: array for name, array in tensors.items() if name.startswith(_EMBEDDER.format(0) + "emb.")}
    gathered = {name.removeprefix(_EMBEDDER.format(0)): array for name, array in first.items()}
    for i, (name, array) in itertools.product(range(1, depth), gathered.items()):
        other = tensors[_EMBEDDER.format(i) + name]
        if (other.dtype, other.tobytes()) != (array.dtype, array.tobytes()):
            raise ValueError(
                f"block {i} embeds level and label unlike block 0 ({_EMBEDDER.format(i)}{name}), "
                "and a DiT has one embedder for all"
            )
    for name, array in tensors.items():
        if ".to_q." in name:
            parts = [as_float32(part, tensors[part]) for part in (name.replace("to_q", f"to_{p}") for p in "qkv")]
            gathered[name.replace("to_q", "to_qkv")] = np.concatenate(parts)
        elif ".to_k." not in name and ".to_v." not in name and ".norm1.emb." not in name:
            gathered[name] = array
    return gathered
