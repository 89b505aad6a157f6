"""Small tokenizers in the files that published ones come in."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = (
    ("c", "a"), ("ca", "t</w>"), ("p", "h"), ("o", "t"), ("ph", "ot"), ("phot", "o</w>"), ("d", "o"), ("o", "f</w>"),
    ("!", "!"), ("!!", "!</w>"), ("'", "s</w>"), ("i", "n"), ("in", "es</w>"), ("e", "s</w>"), ("Ã", "©</w>"),
)  # fmt: skip


def clip_vocabulary() -> dict[str, int]:
    """As CLIP's: the bytes, the bytes that end a word, the merged, and the two around a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{sign}</w>" for sign in alphabet), *map("".join, MERGES), START, END]
    return {piece: number for number, piece in enumerate(pieces)}


def write_clip_tokenizer(folder: Path, padding: str | None = None, form: str = "plain") -> None:
    """``vocab.json``, ``merges.txt`` and settings; ``padding`` None names none.

    ``form``: special tokens as strings ("plain"), with flags ("flags"), or also listed by id ("listed").
    """
    vocabulary = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, MERGES)]) + "\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    if padding is not None:
        special["pad_token"] = padding
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    named = {name: special[name] if form == "plain" else {"content": special[name], **flags} for name in special}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    if form == "listed":
        listed = {vocabulary[token]: {"content": token, **flags, "special": True} for token in special.values()}
        config |= special | {"added_tokens_decoder": {str(number): token for number, token in listed.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(named), encoding="utf-8")


def write_t5_tokenizer(folder: Path) -> None:
    """``tokenizer.json``, of pieces with scores, and its settings. The id 0 pads, 1 ends a text, 2 is unknown."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁photo", "▁cat", "▁of", *"abcdefghijklmnopqrstuvwxyz!'"]
    model = models.Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], unk_id=2)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
