"""Encoders of text and CLIP's tokenizer against transformers, live, on folders that it saved."""

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from maskdiff_jax.models.text.t5 import bucket
from maskdiff_jax.weights.text import load_text_encoder
from maskdiff_jax.weights.tokenizer import read_tokenizer
from tests.weights.standin_tokenizers import write_clip_tokenizer, write_t5_tokenizer

CLIP = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 48,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
}
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 3}
IDS = np.random.default_rng(0).integers(3, 100, (4, 12)).astype(np.int32)
LENGTHS = np.array([12, 7, 3, 1])
MASK = np.arange(12)[None] < LENGTHS[:, None]
END = 99
IDS[IDS == END] = 98
IDS = np.where(np.arange(12)[None] >= LENGTHS[:, None] - 1, END, IDS)  # the end, and padding with it


def random(model):
    """N(0, 0.3) in place of small numbers, so that no part is too weak to be seen; norms around 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name and "weight" in name else 0.0))
    return model.eval()


def answers(model, mask):
    with torch.no_grad():
        given = {"attention_mask": torch.as_tensor(mask)} if mask is not None else {}
        return model(input_ids=torch.as_tensor(IDS).long(), output_hidden_states=True, **given)


def check(encoder, mask, tokens, pooled=None):
    mask = np.ones_like(MASK) if mask is None else mask
    encoded = jax.jit(encoder.encode)(encoder.params, IDS, mask)
    scale = float(tokens.std())
    np.testing.assert_allclose(encoded.tokens, tokens.numpy(), atol=1e-4 * max(scale, 1), rtol=1e-4)
    if pooled is not None:
        np.testing.assert_allclose(encoded.pooled, pooled.numpy(), atol=1e-4, rtol=1e-4)
        assert encoder.pooled_width == pooled.shape[1]


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("activation", "end", "projected"), [("quick_gelu", END, False), ("gelu", END, True), ("quick_gelu", 2, True)]
)
def test_clip(tmp_path, activation, end, projected, mask):
    config = transformers.CLIPTextConfig(**CLIP, hidden_act=activation, eos_token_id=end)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    model = random(kind(config))
    model.save_pretrained(tmp_path)
    write_clip_tokenizer(tmp_path)
    expected = answers(model, mask)
    pooled = expected.text_embeds if projected else expected.pooler_output
    check(load_text_encoder(tmp_path), mask, expected.last_hidden_state, pooled)
    check(load_text_encoder(tmp_path, skip=1), mask, expected.hidden_states[-2], pooled)


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("feed_forward", "kind"),
    [("relu", "T5EncoderModel"), ("gated-gelu", "T5EncoderModel"), ("gated-gelu", "T5ForConditionalGeneration")],
)
def test_t5(tmp_path, feed_forward, kind, mask):
    config = transformers.T5Config(**T5, feed_forward_proj=feed_forward, relative_attention_max_distance=10)
    whole = random(getattr(transformers, kind)(config))
    whole.save_pretrained(tmp_path)
    write_t5_tokenizer(tmp_path)
    model = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    expected = answers(model, mask)
    check(load_text_encoder(tmp_path), mask, expected.last_hidden_state)
    check(load_text_encoder(tmp_path, skip=1), mask, expected.hidden_states[-2])


@pytest.mark.parametrize("sizes", [(32, 128), (8, 20), (12, 64)], ids=str)
def test_relative_positions(sizes):
    offsets = np.arange(-2000, 2001)
    expected = T5Attention._relative_position_bucket(torch.as_tensor(offsets), True, *sizes)
    np.testing.assert_array_equal(bucket(offsets, *sizes), expected.numpy())


TEXTS = [
    "a photo of a cat",
    "A PHOTO of a Cat!!! don't; it's 2024, we'll",
    "Ünïcode naïve café Ⅷ ß ﬁ — “quotes” … 日本語 🙂👍🏽",
    "e\u0301 and é, İstanbul",
    "  spaces\t and\n\nlines\u00a0\u3000 ",
    "",
    " ",
    "<|endoftext|> in the text <|STARTOFTEXT|>!",
    "<|startoftext|>photo<|endoftext|>!cat !",
    "<|EndOfText|> <|StartOfText|>",
    "a_b-c/d\\e a photo of a cat " * 9,
    "\u0000\u200b\ufffd control",
]


@pytest.mark.parametrize("padding", [None, "!", "<|endoftext|>"])
@pytest.mark.parametrize("form", ["plain", "flags", "listed"])
def test_clip_tokenizer(tmp_path, padding, form):
    write_clip_tokenizer(tmp_path, padding, form)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    for length in (5, 77):
        expected = theirs(TEXTS, padding="max_length", truncation=True, max_length=length)
        ids, mask = ours.tokenize(TEXTS, length)
        for text, found, wanted in zip(TEXTS, ids.tolist(), expected["input_ids"], strict=True):
            assert found == wanted, text
        np.testing.assert_array_equal(mask, np.array(expected["attention_mask"], bool))
        assert ids.max() < ours.vocabulary


def test_whole_tokenizer_file(tmp_path):
    """tokenizer.json, as transformers writes it, gives what the files that it came from give."""
    write_clip_tokenizer(tmp_path, "!")
    transformers.CLIPTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "tokenizer.json").exists()
    for found, wanted in zip(
        read_tokenizer(tmp_path / "whole").tokenize(TEXTS, 9), read_tokenizer(tmp_path).tokenize(TEXTS, 9), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_t5_tokenizer(tmp_path):
    write_t5_tokenizer(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = theirs(TEXTS, padding="max_length", truncation=True, max_length=7)
    ids, mask = read_tokenizer(tmp_path).tokenize(TEXTS, 7)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, np.array(expected["attention_mask"], bool))


XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}


def test_published_sizes():
    """The counts that tests/models/test_text.py asserts."""
    large = transformers.CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    with torch.device("meta"):
        models = [transformers.CLIPTextModel(large), transformers.T5EncoderModel(transformers.T5Config(**XXL))]
    assert [sum(parameter.numel() for parameter in model.parameters()) for model in models] == [
        123_060_480,
        4_762_310_656,
    ]
