"""A DiT in the formats of diffusers and of its authors: round trips, counts, closed forms and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models.dit import PRESETS, dit
from maskdiff_jax.models.layers import sinusoid
from maskdiff_jax.tokens import patchify
from maskdiff_jax.train.digest import flatten, nested
from maskdiff_jax.types import Cond, CondShape
from maskdiff_jax.weights.dit import Facts, from_diffusers, from_published, to_diffusers, to_published
from maskdiff_jax.weights.folders import read_folder
from maskdiff_jax.weights.pipeline import write_pipeline
from maskdiff_jax.weights.schedule import to_scheduler
from tests.models.perturb import random_params

WIDTH, DEPTH, CLASSES = 16, 3, 5
OPTIONS = {"patch": 2, "width": WIDTH, "depth": DEPTH, "heads": 2, "learned_variance": True, "level_scale": 1.0}
PUBLISHED = Facts((8, 8, 3), CLASSES, OPTIONS)
DIFFUSERS = PUBLISHED._replace(options=OPTIONS | {"level_features": "diffusers"})
FORMATS = (PUBLISHED, DIFFUSERS)


def make(facts):
    return dit(*facts[:2], **facts.options)


@pytest.fixture(scope="module")
def params():
    return random_params(make(DIFFUSERS).init)


def blank(facts):
    """Arrays of the shapes of the parameters, and of no size."""
    shapes = jax.eval_shape(make(facts).init, jax.random.key(0))
    return nested({path: np.empty(leaf.shape, "V0") for path, leaf in flatten(shapes).items()})


def assert_identical(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True, err_msg=name)


@pytest.mark.parametrize(("learned_variance", "patch"), [(False, 1), (True, 4)])
def test_there_and_back_is_the_identity(learned_variance, patch):
    changed = {"learned_variance": learned_variance, "patch": patch}
    theirs, ours = (facts._replace(options={**facts.options, **changed}) for facts in (DIFFUSERS, PUBLISHED))
    params = random_params(make(theirs).init)
    config, tensors = to_diffusers(params, theirs)
    facts, back = from_diffusers(json.loads(json.dumps(config)), tensors)
    assert facts == theirs
    assert_identical(back, params)
    assert_identical(to_diffusers(back, facts)[1], tensors)

    tensors = to_published(params, ours)
    facts, back = from_published(tensors, heads=2)
    assert facts == ours
    assert_identical(back, params)
    assert_identical(to_published(back, facts), tensors)


def counted(preset):
    """A network of a published size, its blank parameters, and the count of a checkpoint of it."""
    facts = Facts((32, 32, 4), 1000, {"preset": preset, "learned_variance": True, "level_scale": 1.0})
    params = blank(facts)
    return facts, params, sum(array.size for array in to_published(params, facts).values())


def test_published_sizes():
    """The counts of the code release, which include the 256 fixed positions; in diffusers' format, too."""
    assert counted("XL")[-1] == 675_129_632
    ours, params, published = counted(preset := "S")
    assert published == 32_963_360
    theirs = ours._replace(options={**ours.options} | {"level_features": "diffusers"})
    config, spread = to_diffusers(params, theirs)
    size, depth = PRESETS[preset], PRESETS[preset]["depth"]
    embedder = (256 + 1) * size["width"] + (size["width"] + 1) * size["width"] + 1001 * size["width"]
    again = (depth - 1) * embedder  # once in every block, and the positions are not there
    assert sum(array.size for array in spread.values()) == published + again - 256 * size["width"]
    assert (config["num_attention_heads"], config["num_layers"]) == (size["heads"], depth)
    assert config["num_attention_heads"] * config["attention_head_dim"] == size["width"]
    sizes = {"in_channels": 4, "out_channels": 8, "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000}
    assert sizes.items() <= config.items()


def test_the_patches_are_cut_by_a_convolution(params):
    """Its answer at a place is the sum over channels, rows and columns of kernel times pixel."""
    x = np.random.default_rng(1).standard_normal((1, 8, 8, 3), np.float32)
    weight = to_diffusers(params, DIFFUSERS)[1]["pos_embed.proj.weight"]
    np.testing.assert_array_equal(weight, to_published(params, PUBLISHED)["x_embedder.proj.weight"])
    pieces = x.reshape(4, 2, 4, 2, 3)  # row, row in it, column, column in it, channel
    expected = np.einsum("wcij,riscj->rsw", weight, pieces.transpose(0, 1, 2, 4, 3)).reshape(16, WIDTH)
    found = np.asarray(patchify(jnp.asarray(x), 2)).reshape(16, -1) @ params["embed"]["kernel"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_queries_keys_and_values_are_thirds_and_the_null_label_is_the_last(params):
    _, tensors = to_diffusers(params, DIFFUSERS)
    fused = params["block_02"]["attention"]["qkv"]
    for third, part in enumerate("qkv"):
        at, name = slice(third * WIDTH, (third + 1) * WIDTH), f"transformer_blocks.2.attn1.to_{part}"
        np.testing.assert_array_equal(tensors[f"{name}.weight"], fused["kernel"][:, at].T)
        np.testing.assert_array_equal(tensors[f"{name}.bias"], fused["bias"][at])
    table = params["conditions_label"]["table"]["embedding"]
    for block in range(DEPTH):
        copy = tensors[f"transformer_blocks.{block}.norm1.emb.class_embedder.embedding_table.weight"]
        np.testing.assert_array_equal(copy, table)
    assert table.shape == (CLASSES + 1, WIDTH)


def test_halves_are_read_as_float32(params):
    config, tensors = to_diffusers(params, DIFFUSERS)
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    _, back = from_diffusers(config, half)
    assert_identical(back, jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), params))


def test_embedders_that_differ_are_refused(params):
    config, tensors = to_diffusers(params, DIFFUSERS)
    name = "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2.bias"
    for block in (2, 1):  # the first that differs is named
        other = tensors[name.format(block)].copy()
        other[3] = np.nextafter(other[3], np.float32(1))
        tensors[name.format(block)] = other
        line = rf"^block {block} embeds level and label unlike block 0 \(transformer_blocks.{block}.norm1.emb.timestep"
        with pytest.raises(ValueError, match=line):
            from_diffusers(config, tensors)


def test_other_tensors_and_configs_are_refused(params):
    config, tensors = to_diffusers(params, DIFFUSERS)
    without = {name: array for name, array in tensors.items() if name != "transformer_blocks.1.attn1.to_k.bias"}
    for changed, text in (
        (without, "lack transformer_blocks.1.attn1.to_k.bias"),
        (tensors | {"caption.weight": np.zeros(1)}, "have caption.weight, which the network does not have"),
        (tensors | {"proj_out_2.bias": np.zeros(3)}, r"proj_out_2.bias has shape \[3\], not \[24\]"),
    ):
        with pytest.raises(ValueError, match=text):
            from_diffusers(config, changed)
    for key, value, text in (
        ("_class_name", "PixArtTransformer2DModel", "is of a PixArtTransformer2DModel, not of a DiTTransformer2DModel"),
        ("norm_type", "ada_norm_single", "norm_type='ada_norm_single', and a DiT has 'ada_norm_zero'"),
        ("out_channels", 5, "out_channels=5, and a DiT has 3, or twice that"),
        ("num_layers", 2, "have transformer_blocks.2"),
        ("sample_size", None, "sample_size=None, which is not a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            from_diffusers(config | {key: value}, tensors)

    tensors = to_published(params, PUBLISHED)
    for changed, text in (
        ({k: v for k, v in tensors.items() if k != "pos_embed"}, "lack pos_embed with 3 axes"),
        (tensors | {"pos_embed": tensors["pos_embed"][:, ::-1]}, "pos_embed is not that of a square of 4×4 tokens"),
        ({k: v for k, v in tensors.items() if k != "t_embedder.mlp.2.bias"}, "lack t_embedder.mlp.2.bias"),
    ):
        with pytest.raises(ValueError, match=text):
            from_published(changed, heads=2)
    with pytest.raises(ValueError, match="heads=None: no published DiT has the width 16"):
        from_published(tensors)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"level_features": "dit"}, "train with config.model.level_features='diffusers'"),
        ({"level_scale": 1000.0}, "level_scale=1000.0 cannot be exported: train with config.model.level_scale=1.0"),
        ({"mlp_ratio": 2.0}, "mlp_ratio=2.0 cannot be exported"),
        ({"trained_grid": (2, 2)}, "no interpolated positions"),
        ({"conditioning": {"label_token": {}}}, r"conditioning=\['label_token'\].*a label as a vector"),
        ({"conditioning": {}}, "the network is unconditional"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_networks_that_the_format_cannot_hold(changed, text):
    facts = DIFFUSERS._replace(options={**DIFFUSERS.options, **changed})
    with pytest.raises(ValueError, match=text):
        to_diffusers({}, facts)


def test_shapes_that_the_format_cannot_hold(params):
    for facts, text in (
        (DIFFUSERS._replace(classes=0), "the network is unconditional"),
        (DIFFUSERS._replace(classes=CondShape(CLASSES, controls_low=2)), r"\['label', 'controls'\]"),
        (DIFFUSERS._replace(image_shape=(8, 4, 3)), r"image_shape=\(8, 4\) cannot be exported"),
    ):
        with pytest.raises(ValueError, match=text):
            to_diffusers({}, facts)
    with pytest.raises(ValueError, match=r"level_features='diffusers' cannot be exported: train with .*='dit'"):
        to_published(params, DIFFUSERS)
    with pytest.raises(ValueError, match="the parameters lack block_02/"):
        to_diffusers({name: leaf for name, leaf in params.items() if name != "block_02"}, DIFFUSERS)


def test_the_rates_of_the_two_features():
    """Both are a geometric sequence from 1; theirs ends at 1/period, the published one a step before."""
    x = jnp.ones(1)
    for shift, last in ((0, 1e-4 ** (127 / 128)), (1, 1e-4)):
        cosines, sines = np.split(np.asarray(sinusoid(x, 256, shift=shift), np.float64)[0], 2)
        angles = np.arctan2(sines, cosines)
        np.testing.assert_allclose(angles[[0, -1]], [1, last], rtol=1e-5)
        np.testing.assert_allclose(np.diff(np.log(angles)), np.log(last) / 127, rtol=1e-3)


def test_the_features_are_an_option_of_the_network(params):
    """At level 0 all angles are 0, whatever the rates."""
    x, levels = np.ones((2, 8, 8, 3), np.float32), np.array([0, 500], np.float32)
    a, b = (jax.jit(make(facts).apply)(params, x, levels, Cond(label=np.array([1, -1]))) for facts in FORMATS)
    np.testing.assert_array_equal(a.prediction[0], b.prediction[0])
    assert np.abs(a.prediction[1] - b.prediction[1]).max() > 1e-3
    with pytest.raises(ValueError, match="level_features='vdm': choose from dit, diffusers"):
        dit((8, 8, 3), level_features="vdm")


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_the_folder_of_a_pipeline(params, tmp_path, variant):
    """A decoder of which there is a variant alone has the usual names in it."""
    vae = tmp_path / "a_vae"
    vae.mkdir()
    (vae / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", "latent_channels": 3}))
    (vae / f"diffusion_pytorch_model{variant}.safetensors").write_bytes(b"weights")
    (vae / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    config, tensors = to_diffusers(params, DIFFUSERS)
    schedule = to_scheduler("ddpm_linear", {})
    write_pipeline(tmp_path / "out", config, tensors, schedule, vae, ["cat", "dog"])
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    network = {f"transformer/{name}" for name in ("config.json", "diffusion_pytorch_model.safetensors")}
    decoder = {name.replace("transformer", "vae") for name in network}
    assert written == network | decoder | {"model_index.json", "scheduler/scheduler_config.json"}
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["id2label"] == {"0": "cat", "1": "dog"}
    facts, back = from_diffusers(*read_folder(tmp_path / "out" / "transformer"))
    assert facts == DIFFUSERS
    assert_identical(back, params)


def test_pipelines_that_cannot_be(params, tmp_path):
    config, tensors = to_diffusers(params, DIFFUSERS)
    schedule, out = to_scheduler("ddpm_linear", {}), tmp_path / "out"
    with pytest.raises(ValueError, match="labels: 6 names for 5 classes"):
        write_pipeline(out, config, tensors, schedule, labels=list("abcdef"))
    for found, text in (
        ({"_class_name": "VQModel"}, "holds no AutoencoderKL"),
        ({"_class_name": "AutoencoderKL"}, "decodes 4 channels, and the network answers with 3"),
        ({"_class_name": "AutoencoderKL", "latent_channels": 3}, "holds no diffusion_pytorch_model.safetensors"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(found))
        with pytest.raises(ValueError, match=text):
            write_pipeline(out, config, tensors, schedule, tmp_path)
    assert not out.exists()
    for arguments, text in (
        (("linear_flow", {}), "process='linear_flow' cannot be exported: .* ddpm_linear, ddpm_cosine"),
        (("ddpm_linear", {}, "velocity"), "prediction='velocity' cannot be exported: .* x, eps, v"),
        (("ddpm_cosine", {"s": 0.1}), "s=0.008 and beta_max=0.999, not 0.1 and 0.999"),
    ):
        with pytest.raises(ValueError, match=text):
            to_scheduler(*arguments)
