"""Encoders of text from folders: their names, what is left out, their tokenizers, and what is refused."""

import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from maskdiff_jax.train.digest import flatten
from maskdiff_jax.weights.text import ARCHITECTURES, load_text_encoder
from maskdiff_jax.weights.tokenizer import read_tokenizer
from tests.weights.standin_tokenizers import END, START, clip_vocabulary, write_clip_tokenizer, write_t5_tokenizer
from tests.weights.text_references import clip, t5

WIDTH, HIDDEN, DEPTH = 8, 12, 2
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 600,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "projection_dim": 6,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
T5 = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "vocab_size": 40,
    "d_model": WIDTH,
    "d_kv": 3,
    "d_ff": HIDDEN,
    "num_layers": DEPTH,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}


def affine(name, out, inner):
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def clip_shapes(prefix="text_model."):
    """The names and shapes in a published file, written down once more."""
    shapes = {"embeddings.token_embedding.weight": (600, WIDTH), "embeddings.position_embedding.weight": (16, WIDTH)}
    for i in range(DEPTH):
        layer = f"encoder.layers.{i}"
        for name in "qkv":
            shapes |= affine(f"{layer}.self_attn.{name}_proj", WIDTH, WIDTH)
        shapes |= affine(f"{layer}.self_attn.out_proj", WIDTH, WIDTH)
        shapes |= affine(f"{layer}.mlp.fc1", HIDDEN, WIDTH) | affine(f"{layer}.mlp.fc2", WIDTH, HIDDEN)
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{name}.weight": (WIDTH,), f"{layer}.{name}.bias": (WIDTH,)}
    shapes |= {"final_layer_norm.weight": (WIDTH,), "final_layer_norm.bias": (WIDTH,)}
    return {prefix + name: shape for name, shape in shapes.items()}


def t5_shapes(feed_forward="gated-gelu"):
    shapes = {"shared.weight": (40, WIDTH), "encoder.final_layer_norm.weight": (WIDTH,)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 2)
    for i in range(DEPTH):
        attention, mlp = (f"encoder.block.{i}.layer.{j}" for j in range(2))
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (6, WIDTH) for name in "qkv"}
        shapes |= {
            f"{attention}.SelfAttention.o.weight": (WIDTH, 6),
            f"{mlp}.DenseReluDense.wo.weight": (WIDTH, HIDDEN),
        }
        hidden = ("wi",) if feed_forward == "relu" else ("wi_0", "wi_1")
        shapes |= {f"{mlp}.DenseReluDense.{name}.weight": (HIDDEN, WIDTH) for name in hidden}
        shapes |= {f"{layer}.layer_norm.weight": (WIDTH,) for layer in (attention, mlp)}
    return shapes


def random(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    if "d_model" in config:
        write_t5_tokenizer(folder)
    else:
        write_clip_tokenizer(folder)
    return folder


def same(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), first.params, second.params)


@pytest.mark.parametrize(
    ("config", "prefix", "shapes"),
    [
        (CLIP, "text_model.", clip_shapes()),
        (CLIP | {"architectures": None}, "", clip_shapes("")),
        (T5, "", t5_shapes()),
        (T5 | {"architectures": [], "feed_forward_proj": "relu"}, "", t5_shapes("relu")),
    ],
    ids=["clip", "clip without prefix", "t5 1.1", "t5"],
)
def test_published_weights_give_the_published_tokens(tmp_path, config, prefix, shapes):
    tensors = random(shapes)
    encoder = load_text_encoder(write(tmp_path, config, tensors))
    ids = np.random.default_rng(1).integers(0, 40, (3, 7)).astype(np.int32)
    mask = np.arange(7)[None] < np.array([[7], [4], [1]])
    reference, pooled, length = (t5, None, 512) if "d_model" in config else (clip, WIDTH, 16)
    expected = reference({name.removeprefix(prefix): array for name, array in tensors.items()}, ids, mask, heads=2)
    found = jax.jit(encoder.encode)(encoder.params, ids, mask).tokens
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (encoder.width, encoder.pooled_width, encoder.length) == (WIDTH, pooled, length)
    assert all(array.dtype == np.float32 for array in flatten(encoder.params).values())


def test_from_texts_to_tokens(tmp_path):
    tensors = random(clip_shapes()) | {"text_projection.weight": random({"p": (6, WIDTH)})["p"]}
    config = CLIP | {"architectures": ["CLIPTextModelWithProjection"], "eos_token_id": clip_vocabulary()[END]}
    encoder = load_text_encoder(write(tmp_path, config, tensors))
    ids, mask = encoder.tokenize(["a photo", "a photo of a cat"], encoder.length)
    encoded = jax.jit(encoder.encode)(encoder.params, ids, mask)
    assert encoded.tokens.shape == (2, 16, WIDTH)
    assert encoded.pooled.shape == (2, 6) and encoder.pooled_width == 6
    np.testing.assert_allclose(encoded.tokens[0, :3], encoded.tokens[1, :3], atol=1e-5)  # the start, "a", "photo"
    last = np.asarray(encoded.tokens)[[0, 1], mask.sum(1) - 1]
    np.testing.assert_allclose(encoded.pooled, last @ tensors["text_projection.weight"].T, rtol=1e-4, atol=1e-5)


def test_buffers_copies_and_decoders_are_left_out(tmp_path):
    numbers = {"text_model.embeddings.position_ids": np.arange(16)[None]}
    arrays = random(clip_shapes())
    plain = load_text_encoder(write(tmp_path / "clip", CLIP, arrays))
    same(plain, load_text_encoder(write(tmp_path / "numbers", CLIP, arrays | numbers)))

    arrays = random(t5_shapes())
    copy = {"encoder.embed_tokens.weight": arrays["shared.weight"]}
    decoder = {"decoder.block.0.layer.0.layer_norm.weight": np.ones(WIDTH, np.float32)}
    whole = arrays | copy | decoder | {"lm_head.weight": np.ones((40, WIDTH), np.float32)}
    moved = {name: array for name, array in (arrays | copy).items() if name != "shared.weight"}
    plain = load_text_encoder(write(tmp_path / "t5", T5, arrays))
    for name, tensors, architecture in (("whole", whole, "T5ForConditionalGeneration"), ("moved", moved, "T5Model")):
        same(plain, load_text_encoder(write(tmp_path / name, T5 | {"architectures": [architecture]}, tensors)))


def test_a_pipelines_tokenizer_stands_beside_the_encoder(tmp_path):
    folder = write(tmp_path / "text_encoder_2", CLIP, random(clip_shapes()))
    expected = load_text_encoder(folder).tokenize(["a cat"], 8)[0]
    (tmp_path / "tokenizer_2").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for path in (*folder.glob("*token*"), *folder.glob("vocab.json"), *folder.glob("merges.txt")):
        path.rename(tmp_path / "tokenizer_2" / path.name)
    np.testing.assert_array_equal(load_text_encoder(folder).tokenize(["a cat"], 8)[0], expected)
    write_clip_tokenizer(tmp_path / "elsewhere", "!")
    other = load_text_encoder(folder, tokenizer=tmp_path / "elsewhere").tokenize(["a cat"], 8)[0]
    assert other[0, -1] == clip_vocabulary()["!"] != expected[0, -1]


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"architectures": ["BertModel"]}, {}, f"holds a network 'BertModel': choose from {', '.join(ARCHITECTURES)}"),
        ({"architectures": None, "model_type": "bert"}, {}, "holds a network 'bert': choose from CLIPTextModel, "),
        ({"hidden_size": "8"}, {}, "hidden_size='8', not int"),
        ({"eos_token_id": [1, 2]}, {}, r"eos_token_id=[1, 2], not int"),
        ({"hidden_act": "silu"}, {}, "activation='silu': choose from quick_gelu, gelu"),
        ({"vocab_size": 500}, {}, "has 500 ids, its tokenizer 529: not of one network"),
        ({"num_hidden_layers": 1}, {}, "which the network does not have"),
        ({"num_hidden_layers": 3}, {}, "lack encoder.layers.2.layer_norm1.bias, "),
        ({}, {"text_model.other": np.zeros(1, np.float32)}, "have other, which the network does not have"),
        ({}, {"final_layer_norm.bias": np.zeros(1, np.float32)}, "the same names with and without text_model."),
    ],
)
def test_other_clips_are_refused(tmp_path, config, tensors, message):
    folder = write(tmp_path, CLIP | config, random(clip_shapes()) | tensors)
    with pytest.raises(ValueError) as refusal:
        load_text_encoder(folder)
    assert message in str(refusal.value) and str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_embeddings_are_refused(tmp_path):
    tensors = random(t5_shapes())
    folder = write(tmp_path, T5, tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"] + 1})
    with pytest.raises(ValueError, match=r"have two embeddings, shared\.weight and encoder\.embed_tokens\.weight"):
        load_text_encoder(folder)


def clip_ids(tmp_path, texts, length, padding=None):
    write_clip_tokenizer(tmp_path, padding)
    return read_tokenizer(tmp_path).tokenize(texts, length)


def test_clips_pieces(tmp_path):
    """Lower case, words by the merges, other signs by bytes, the end of each word marked."""
    number = clip_vocabulary()
    ids, mask = clip_ids(tmp_path, ["A  Photo of\tcats!", "é7"], 12)
    words = ["a</w>", "photo</w>", "of</w>", "ca", "t", "s</w>", "!</w>"]
    pieces = [START, *words, END]
    assert ids[0, :9].tolist() == [number[piece] for piece in pieces]
    assert ids[1, :4].tolist() == [number[piece] for piece in (START, "Ã©</w>", "7</w>", END)]
    np.testing.assert_array_equal(mask, np.arange(12)[None] < np.array([[9], [4]]))
    assert (ids[~mask] == number[END]).all()
    assert ids.dtype == np.int32 and mask.dtype == bool


def test_long_texts_keep_their_end_and_empty_ones_are_two_tokens(tmp_path):
    number = clip_vocabulary()
    ids, mask = clip_ids(tmp_path, ["a " * 50, ""], 5, "!")
    assert ids.tolist() == [
        [number[START], *3 * [number["a</w>"]], number[END]],
        [number[START], number[END], *3 * [number["!"]]],
    ]
    assert mask.sum(1).tolist() == [5, 2]
    assert clip_ids(tmp_path, [], 5)[0].shape == (0, 5)


def test_special_tokens_are_never_cut(tmp_path):
    """With "!" as the padding, as in some published folders, an exclamation mark is that token and ends no word."""
    number = clip_vocabulary()
    texts = ["cat!", f"a{END}a"]
    for padding, mark in ((None, "!</w>"), ("!", "!")):
        ids = clip_ids(tmp_path, texts, 6, padding)[0]
        assert ids[0, :4].tolist() == [number[piece] for piece in (START, "cat</w>", mark, END)]
        assert ids[1, :5].tolist() == [number[piece] for piece in (START, "a</w>", END, "a</w>", END)]


def test_t5s_tokenizer(tmp_path):
    write_t5_tokenizer(tmp_path)
    ids, mask = read_tokenizer(tmp_path).tokenize(["a photo of a cat", "", "a cat"], 5)
    assert ids.tolist() == [[4, 5, 7, 4, 1], [1, 0, 0, 0, 0], [4, 6, 1, 0, 0]]
    assert mask.sum(1).tolist() == [5, 1, 3]


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [
        ("a cat", 5, "texts='a cat': a list of strings"),
        (["a", 3], 5, "texts=['a', 3]: a list of strings"),
        (["a"], 2, "length=2: at least 3, as 2 tokens stand around a text"),
    ],
)
def test_bad_texts(tmp_path, texts, length, message):
    with pytest.raises(ValueError) as refusal:
        clip_ids(tmp_path, texts, length)
    assert str(refusal.value) == message


def test_folders_without_a_tokenizer_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no tokenizer: tokenizer\.json or vocab\.json with merges\.txt$"):
        read_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds spiece\.model, which is not read: its tokenizer\.json is needed$"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer: "):
        read_tokenizer(tmp_path)
    write_t5_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"no pad_token in tokenizer_config\.json or special_tokens_map\.json$"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json holds list, not an object$"):
        read_tokenizer(tmp_path)
    write_t5_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"need tokenizers: pip install 'maskdiff_jax\[text\]'$"):
        read_tokenizer(tmp_path)
