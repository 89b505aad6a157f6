"""The autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) as pure functions, and as a codec.

It is the network of the published weights of Stable Diffusion (4 channels), of SDXL (4, other weights and scale) and of
the later ones of 16 channels, and is configured as their ``config.json`` is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import rng
from maskdiff_jax.models.autoencoder_layers import AutoencoderKL
from maskdiff_jax.models.layers import check_dtype
from maskdiff_jax.types import Array, Codec, Key, Params

# All options and what they are where they are not given, as in diffusers; ``None`` for block types: one kind for all.
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": None,
    "up_block_types": None,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
ONLY = {"_class_name": "AutoencoderKL", "act_fn": "silu", "latents_mean": None, "latents_std": None}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
COUNTS = ("in_channels", "out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
SWITCHES = ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")


class Autoencoder(NamedTuple):
    """An autoencoder with Gaussian latents. Images are in [-1, 1]; f is ``factor``, c is ``channels``.

    ``init(key) -> params``; ``encode(params, x [b, h, w, i]) -> (mean, std)``, each [b, h/f, w/f, c], of the posterior
    of the latents as the network has them, not scaled; ``decode(params, z [b, h, w, c]) -> [b, f·h, f·w, o]``.

    ``decode_tiled(params, z, tile, overlap)`` decodes squares of ``tile`` latents a side one after the other, in the
    memory of one, and fades linearly from each to the next where they overlap, by at least ``overlap`` latents. Where
    one tile covers z it is ``decode``; else it is another image, as the norms and the attention see one tile alone.

    A diffusion has (z - shift)·scaling. ``config``: all options, under the names of ``config.json``.
    """

    init: Callable[[Key], Params]
    encode: Callable[[Params, Array], tuple[Array, Array]]
    decode: Callable[[Params, Array], Array]
    decode_tiled: Callable[[Params, Array, int, int], Array]
    factor: int
    channels: int
    scaling: float
    shift: float
    config: dict[str, Any]


def autoencoder_kl(config: Mapping[str, Any], *, dtype: str = "float32") -> Autoencoder:
    """The autoencoder that a ``config.json`` of diffusers' ``AutoencoderKL`` describes.

    What is missing is as there: see `DEFAULTS`. ``sample_size`` and ``force_upcast`` have no meaning here and are kept;
    other names that begin with an underscore than ``_class_name`` are dropped. ``dtype``: of the arithmetic, 'float32'
    or 'bfloat16'; parameters, norms, softmax, latents and images are float32.

    Raises ValueError for options and values that this network does not have; when called, for images whose sides
    ``factor`` does not divide, other numbers of channels, and tiles that do not exceed their overlap.
    """
    check_dtype(dtype)
    config = complete(config)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    channels = config["latent_channels"]
    module = AutoencoderKL(
        widths=tuple(config["block_out_channels"]),
        blocks=config["layers_per_block"],
        groups=config["norm_num_groups"],
        attention=config["mid_block_add_attention"],
        latent=channels,
        out=config["out_channels"],
        quant=config["use_quant_conv"],
        post_quant=config["use_post_quant_conv"],
        dtype=dtype,
    )

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, factor, factor, config["in_channels"])))["params"]

    def encode(params: Params, x: Array) -> tuple[Array, Array]:
        _latent_shape(config, x.shape[1:])
        moments: Any = module.apply({"params": params}, x, method="encode")
        return moments

    def decode(params: Params, z: Array) -> Array:
        if z.shape[-1] != channels:
            raise ValueError(f"the autoencoder decodes latents of {channels} channels, not {z.shape[-1]}")
        image: Any = module.apply({"params": params}, z, method="decode")
        return image

    def decode_tiled(params: Params, z: Array, tile: int, overlap: int) -> Array:
        return tiled(lambda part: decode(params, part), z, tile, overlap, factor)

    scaling, shift = float(config["scaling_factor"]), float(config["shift_factor"] or 0)
    return Autoencoder(init, encode, decode, decode_tiled, factor, channels, scaling, shift, config)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """All options, checked, the missing ones as in `DEFAULTS`. Raises ValueError: see `autoencoder_kl`."""
    for key, value in config.items():
        if key not in DEFAULTS and not key.startswith("_"):
            raise ValueError(f"{key}={value!r} is no option of AutoencoderKL: choose from {', '.join(DEFAULTS)}")
        if key in ONLY and value != ONLY[key]:
            raise ValueError(f"{key}={value!r}: choose {ONLY[key]!r}")
    full = DEFAULTS | {key: value for key, value in config.items() if key in DEFAULTS}
    for key in COUNTS:
        if not _counts(full[key]):
            raise ValueError(f"{key}={full[key]!r}: choose a whole number from 1 on")
    for key in SWITCHES:
        if not isinstance(full[key], bool):
            raise ValueError(f"{key}={full[key]!r}: choose True or False")
    widths, groups = full["block_out_channels"], full["norm_num_groups"]
    if not isinstance(widths, (list, tuple)) or not widths or not all(_counts(n) and n % groups == 0 for n in widths):
        raise ValueError(f"block_out_channels={widths!r}: choose a list of multiples of norm_num_groups={groups}")
    for key, kind in BLOCKS.items():
        kinds = [kind] * len(widths)
        if full[key] is not None and list(full[key]) != kinds:
            raise ValueError(f"{key}={full[key]!r}: choose {kinds}")
        full[key] = kinds
    scaling, shift = full["scaling_factor"], full["shift_factor"]
    if not _is_number(scaling) or scaling == 0:
        raise ValueError(f"scaling_factor={scaling!r}: choose a finite number other than 0")
    if shift is not None and not _is_number(shift):
        raise ValueError(f"shift_factor={shift!r}: choose a finite number or None")
    return full | {"block_out_channels": list(widths)}


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def codec(autoencoder: Autoencoder, *, sample: bool = True) -> Codec:
    """Images in [-1, 1] <-> (z - shift)·scaling, z the latents of ``autoencoder``, whose parameters are the codec's.

    ``sample``: z is drawn from the posterior, with one key per image; else it is its mean, and keys are not looked at.
    """

    def encode(params: Params, x: Array, key: Key) -> Array:
        mean, std = autoencoder.encode(params, x)
        z = mean + std * rng.normal(key, mean.shape[1:]) if sample else mean
        return (z - autoencoder.shift) * autoencoder.scaling

    def decode(params: Params, z: Array) -> Array:
        return autoencoder.decode(params, z / autoencoder.scaling + autoencoder.shift)

    def shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return _latent_shape(autoencoder.config, image_shape)

    return Codec(encode, decode, shape)


def _latent_shape(config: Mapping[str, Any], image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    h, w, c = image_shape
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    if c != config["in_channels"]:
        raise ValueError(f"the autoencoder encodes images of {config['in_channels']} channels, not {c}")
    if h % factor or w % factor:
        raise ValueError(f"the autoencoder divides sides by {factor}, which an image of {h}×{w} does not allow")
    return h // factor, w // factor, config["latent_channels"]


def tiled(decode: Callable[[Array], Array], z: Array, tile: int, overlap: int, factor: int) -> Array:
    """``decode`` of z [b, h, w, c], by tiles that are blended; see `Autoencoder`. It multiplies sides by ``factor``.

    The tiles have one shape, so that it is compiled once, and are spread evenly: rows and columns of them begin at
    `starts`. The weights of `fades` along both axes are multiplied.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tile={tile} and overlap={overlap}: choose 0 <= overlap < tile")
    b, h, w, channels = z.shape
    if h <= tile and w <= tile:
        return decode(z)
    height, width = min(h, tile), min(w, tile)
    rows, columns = starts(h, height, overlap), starts(w, width, overlap)
    down, across = fades(rows, height, factor), fades(columns, width, factor)

    def paste(image: Array, part: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        row, column, fade_down, fade_across = part
        piece = decode(jax.lax.dynamic_slice(z, (0, row, column, 0), (b, height, width, channels)))
        weight = fade_down[:, None] * fade_across[None, :]
        place = (0, factor * row, factor * column, 0)
        before = jax.lax.dynamic_slice(image, place, piece.shape)
        return jax.lax.dynamic_update_slice(image, before + weight[None, :, :, None] * piece, place), None

    i, j = (index.reshape(-1) for index in np.indices((len(rows), len(columns))))
    parts = (np.array(rows)[i], np.array(columns)[j], down[i], across[j])
    piece = jax.eval_shape(decode, jax.ShapeDtypeStruct((b, height, width, channels), z.dtype))
    image = jnp.zeros((b, factor * h, factor * w, piece.shape[-1]), piece.dtype)
    return jax.lax.scan(paste, image, jax.tree.map(jnp.asarray, parts))[0]


def starts(n: int, tile: int, overlap: int) -> list[int]:
    """Where the fewest tiles that cover n begin, evenly, when each shares at least ``overlap`` with the next."""
    steps = -(-(n - tile) // (tile - overlap)) if n > tile else 0
    return [i * (n - tile) // max(steps, 1) for i in range(steps + 1)]


def fades(places: list[int], tile: int, factor: int) -> np.ndarray:
    """Weights [tiles, factor·tile] of the pixels of each tile, 1 in sum over the tiles at every pixel.

    Where a tile meets those before it, it comes in linearly, by the distance from its border to the pixel's centre.
    """
    side = factor * tile
    weights = np.zeros((len(places), factor * places[-1] + side))
    covered = 0
    for i, place in enumerate(places):
        here = slice(factor * place, factor * place + side)
        shared = covered - here.start
        rise = np.minimum((np.arange(side) + 0.5) / shared, 1) if shared else np.ones(side)
        weights[:i, here] *= 1 - rise
        weights[i, here] = rise
        covered = here.stop
    return np.stack([weights[i, factor * p : factor * p + side] for i, p in enumerate(places)]).astype(np.float32)
