"""Encoders of text from the standard folders of published ones: the network, its weights and its tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax.models.text import Encoded, TextNetwork, clip, t5
from maskdiff_jax.types import Params
from maskdiff_jax.weights.folders import read_folder, read_object
from maskdiff_jax.weights.tokenizer import read_tokenizer
from maskdiff_jax.weights.torch_names import from_torch


class TextEncoder(NamedTuple):
    """A frozen encoder of text.

    ``encode(params, ids [b, n], mask [b, n]) -> Encoded`` is pure: jit it. ``params`` are NumPy arrays, float32: put
    them on the device once. ``tokenize(texts, length) -> (ids, mask)`` is that of `Tokenizer`. ``width`` is that of the
    tokens, ``pooled_width`` that of the pooled vector or None, ``length`` the usual number of tokens.
    """

    encode: Callable[[Params, jax.Array, jax.Array], Encoded]
    params: Params
    tokenize: Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]
    width: int
    pooled_width: int | None
    length: int


class Family(NamedTuple):
    """How the folders of one kind of network are read.

    ``build(skip=, dtype=, **options)``: the network. ``options``: the entry of config.json that each is, and its value
    where that has none. ``needed(tensors, source)``: the tensors of the encoder, without buffers; a refusal calls them
    ``source``. Modules are called ``outer`` or, in a layer, ``layer`` with its number and ``inner``.
    """

    build: Callable[..., TextNetwork]
    options: dict[str, tuple[str, Any]]
    needed: Callable[[Mapping[str, np.ndarray], str], dict[str, np.ndarray]]
    outer: Mapping[str, str]
    layer: str
    inner: Mapping[str, str]

    def rename(self, path: str) -> str:
        """The PyTorch name of the module at ``path``."""
        if path in self.outer:
            return self.outer[path]
        layer, _, module = path.partition("/")
        return f"{self.layer}.{layer.removeprefix('layer_')}.{self.inner[module]}"


T5_LENGTH = 512  # of the texts that T5 was trained on, which has no limit of its own


def load_text_encoder(
    folder: Path, *, tokenizer: Path | None = None, skip: int = 0, dtype: str = "float32"
) -> TextEncoder:
    """The encoder in a folder of ``config.json``, weights as safetensors, and the files of a tokenizer.

    Args:
      folder: of a network whose config.json names one of `ARCHITECTURES`.
      tokenizer: the folder of the tokenizer's files; by default ``folder``, or, where that is ``text_encoder`` (or
        ``text_encoder_2``, ...) of a pipeline, the ``tokenizer`` (``tokenizer_2``, ...) beside it.
      skip: layers before the last at which the tokens are taken (1 in SDXL); those are not normalised.
      dtype: of the arithmetic, 'float32' or 'bfloat16'.
    Raises ValueError, in one line, for a folder of another network, missing or broken files, weights that are not those
    of the configuration, and a tokenizer of more ids than the network has; OSError where files cannot be read.
    """
    config = read_object(folder / "config.json")
    family = _family(folder, config)
    network = _build(folder, family, config, skip, dtype)
    words = read_tokenizer(tokenizer or _tokenizer_folder(folder))
    if words.vocabulary > network.vocabulary:
        raise ValueError(f"{folder} has {network.vocabulary} ids, its tokenizer {words.vocabulary}: not of one network")
    source, tensors = f"the weights in {folder}", read_folder(folder)[1]
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = from_torch(family.needed(tensors, source), shapes, family.rename, source)
    length = T5_LENGTH if network.length is None else network.length
    return TextEncoder(network.apply, params, words.tokenize, network.width, network.pooled_width, length)


def _family(folder: Path, config: Mapping[str, Any]) -> Family:
    named, kind = config.get("architectures"), str(config.get("model_type"))
    name = str(named[0]) if isinstance(named, list) and named else KINDS.get(kind, kind)
    if name not in ARCHITECTURES:
        raise ValueError(f"{folder} holds a network {name!r}: choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def _tokenizer_folder(folder: Path) -> Path:
    beside = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    holds = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "spiece.model"))
    return beside if beside.is_dir() and not holds else folder


def _build(folder: Path, family: Family, config: Mapping[str, Any], skip: int, dtype: str) -> TextNetwork:
    options = {}
    for option, (entry, default) in family.options.items():
        value = config.get(entry, default)
        if type(value) is not type(default):
            raise ValueError(f"{folder / 'config.json'}: {entry}={value!r}, not {type(default).__name__}")
        options[option] = value
    try:
        return family.build(**options, skip=skip, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _clip_tensors(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Without the buffer of the positions' numbers, and without the prefix that most files have."""
    bare = {name.removeprefix("text_model."): array for name, array in tensors.items()}
    if len(bare) < len(tensors):
        raise ValueError(f"{source} have the same names with and without text_model.")
    bare.pop("embeddings.position_ids", None)
    return bare


def _t5_tensors(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Without the decoder; the embedding, which stands under either of two names or under both, is ``shared``."""
    kept = {name: array for name, array in tensors.items() if not name.startswith(("decoder.", "lm_head."))}
    again = kept.pop("encoder.embed_tokens.weight", None)
    if again is not None and not np.array_equal(kept.setdefault("shared.weight", again), again):
        raise ValueError(f"{source} have two embeddings, shared.weight and encoder.embed_tokens.weight, which differ")
    return kept


# Where an entry is absent, the values are those of the configurations' own defaults: ViT-B/32, and version 1 small.
_CLIP = Family(
    clip,
    {
        "vocabulary": ("vocab_size", 49408),
        "width": ("hidden_size", 512),
        "hidden": ("intermediate_size", 2048),
        "depth": ("num_hidden_layers", 12),
        "heads": ("num_attention_heads", 8),
        "length": ("max_position_embeddings", 77),
        "end": ("eos_token_id", 49407),
        "activation": ("hidden_act", "quick_gelu"),
        "epsilon": ("layer_norm_eps", 1e-5),
    },
    _clip_tensors,
    {
        "token_embedding": "embeddings.token_embedding",
        "position_embedding": "embeddings.position_embedding",
        "final_norm": "final_layer_norm",
        "projection": "text_projection",
    },
    "encoder.layers",
    {
        "norm_1": "layer_norm1",
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.out_proj",
        "norm_2": "layer_norm2",
        "hidden": "mlp.fc1",
        "out": "mlp.fc2",
    },
)
_T5 = Family(
    t5,
    {
        "vocabulary": ("vocab_size", 32128),
        "width": ("d_model", 512),
        "head_width": ("d_kv", 64),
        "hidden": ("d_ff", 2048),
        "depth": ("num_layers", 6),
        "heads": ("num_heads", 8),
        "buckets": ("relative_attention_num_buckets", 32),
        "distance": ("relative_attention_max_distance", 128),
        "feed_forward": ("feed_forward_proj", "relu"),
        "epsilon": ("layer_norm_epsilon", 1e-6),
    },
    _t5_tensors,
    {
        "token_embedding": "shared",
        "relative_position": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "final_norm": "encoder.final_layer_norm",
    },
    "encoder.block",
    {
        "norm_1": "layer.0.layer_norm",
        "attention/query": "layer.0.SelfAttention.q",
        "attention/key": "layer.0.SelfAttention.k",
        "attention/value": "layer.0.SelfAttention.v",
        "attention/out": "layer.0.SelfAttention.o",
        "norm_2": "layer.1.layer_norm",
        "hidden": "layer.1.DenseReluDense.wi",
        "gate": "layer.1.DenseReluDense.wi_0",
        "gated": "layer.1.DenseReluDense.wi_1",
        "out": "layer.1.DenseReluDense.wo",
    },
)

ARCHITECTURES = {
    "CLIPTextModel": _CLIP,
    "CLIPTextModelWithProjection": _CLIP._replace(options=_CLIP.options | {"projection": ("projection_dim", 512)}),
    "T5EncoderModel": _T5,
    "T5Model": _T5,
    "T5ForConditionalGeneration": _T5,
    "T5WithLMHeadModel": _T5,
}
# For a config.json that names no architecture.
KINDS = {"clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
