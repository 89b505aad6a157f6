"""Texts as token ids, by the files that published encoders come with, through the library `tokenizers`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.weights.folders import read_object

# Words, digits and runs of other signs: how CLIP cuts a text up before it merges bytes (Radford et al. 2021, its code).
CLIP_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
FLAGS = ("content", "lstrip", "rstrip", "single_word", "normalized")


class Tokenizer(NamedTuple):
    """``tokenize(texts, length) -> (ids [n, length] int32, mask [n, length] bool)``; all ids are below ``vocabulary``.

    Longer texts are cut before the token that ends them, shorter ones padded after it; the mask is False at padding.
    ``tokenize`` raises ValueError for what is not a list of strings, and for a length without room for any text.
    """

    tokenize: Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]
    vocabulary: int


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, or else CLIP's ``vocab.json`` and ``merges.txt``.

    Texts are padded with the pad_token of ``special_tokens_map.json`` or ``tokenizer_config.json``; CLIP's, where they
    name none, with the token that ends a text. Raises ValueError, in one line, where `tokenizers` is not installed, or
    a file is missing or broken.
    """
    settings = _settings(folder)
    for names, read in READERS.items():
        if all((folder / name).exists() for name in names):
            library = _library()
            try:
                tokenizer, padding = read(library, folder, settings)
                number = tokenizer.token_to_id(padding)
            except Exception as error:  # the library has no kind of its own
                raise ValueError(f"{folder / names[0]} cannot be read as a tokenizer: {error}") from error
            return Tokenizer(_tokenize(tokenizer, padding, number), 1 + max(tokenizer.get_vocab().values()))
    if (folder / "spiece.model").exists():
        raise ValueError(f"{folder} holds spiece.model, which is not read: its tokenizer.json is needed")
    raise ValueError(f"{folder} holds no tokenizer: {' or '.join(' with '.join(names) for names in READERS)}")


def _library() -> Any:
    try:
        return import_module("tokenizers")
    except ImportError as error:
        raise ValueError("token ids of texts need tokenizers: pip install 'maskdiff_jax[text]'") from error


def _settings(folder: Path) -> dict[str, Any]:
    """Both files as one. The map is the older: it has the last word unless the other lists all added tokens."""
    found = (folder / name for name in ("tokenizer_config.json", "special_tokens_map.json"))
    config, special = (read_object(path) if path.exists() else {} for path in found)
    return {**special, **config} if "added_tokens_decoder" in config else {**config, **special}


def _complete(library: Any, folder: Path, settings: Mapping[str, Any]) -> tuple[Any, str]:
    """From ``tokenizer.json``, which lacks the padding only."""
    tokenizer = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not settings.get("pad_token"):
        raise ValueError("no pad_token in tokenizer_config.json or special_tokens_map.json")
    _add(library, tokenizer, settings, ["pad_token"])
    return tokenizer, _content(settings["pad_token"])


def _clip(library: Any, folder: Path, settings: Mapping[str, Any]) -> tuple[Any, str]:
    """Byte-level pair encoding of lower-cased words, whose last piece ends in </w>, between a start and an end."""
    settings = {**CLIP_TOKENS, **{name: token for name, token in settings.items() if token is not None}}
    start, end, unknown, padding = (_content(settings[name]) for name in CLIP_TOKENS)
    files = (str(folder / name) for name in ("vocab.json", "merges.txt"))
    model = library.models.BPE.from_file(*files, unk_token=unknown, end_of_word_suffix="</w>")
    tokenizer = library.Tokenizer(model)
    normal, pieces = library.normalizers, library.pre_tokenizers
    spaces = normal.Replace(library.Regex(r"\s+"), " ")
    tokenizer.normalizer = normal.Sequence([normal.NFC(), spaces, normal.Lowercase()])
    words = pieces.Split(library.Regex(CLIP_PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pieces.Sequence([words, pieces.ByteLevel(add_prefix_space=False)])
    _add(library, tokenizer, settings, CLIP_TOKENS)
    ends = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = library.processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    return tokenizer, padding


# The files, and how they are read: (tokenizers, folder, settings) -> (its Tokenizer, the padding token).
READERS: dict[tuple[str, ...], Callable[[Any, Path, Mapping[str, Any]], tuple[Any, str]]] = {
    ("tokenizer.json",): _complete,
    ("vocab.json", "merges.txt"): _clip,
}


def _add(library: Any, tokenizer: Any, settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Make whole tokens of those that the settings list or name: their text is never cut up, wherever it stands.

    This holds for the padding too: with the "!" of some folders, an exclamation mark in a text is that token.
    """
    listed = settings.get("added_tokens_decoder", {})
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [listed[number] for number in sorted(listed, key=int) if listed[number]["content"] not in known]
    known |= {token["content"] for token in tokens}
    tokens += [_form(settings[name]) | {"special": True} for name in names if _content(settings[name]) not in known]
    for token in tokens:  # of one token named twice, the last is what counts
        flags = {name: token[name] for name in (*FLAGS, "special") if name in token}
        tokenizer.add_tokens([library.AddedToken(**flags)])


def _form(token: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"content": token} if isinstance(token, str) else {name: token[name] for name in FLAGS if name in token}


def _content(token: str | Mapping[str, Any]) -> str:
    return _form(token)["content"]


def _tokenize(
    tokenizer: Any, padding: str, number: int
) -> Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]:
    around = tokenizer.num_special_tokens_to_add(False)

    def tokenize(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts={texts!r}: a list of strings")
        if length <= around:
            raise ValueError(f"length={length}: at least {around + 1}, as {around} tokens stand around a text")
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(pad_id=number, pad_token=padding, length=length)
        codes = tokenizer.encode_batch(list(texts))
        ids, mask = ([getattr(code, name) for code in codes] for name in ("ids", "attention_mask"))
        shape = (len(codes), length)
        return np.asarray(ids, np.int32).reshape(shape), np.asarray(mask, bool).reshape(shape)

    return tokenize
