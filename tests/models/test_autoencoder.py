"""The autoencoder of latent diffusion: sizes, layers in closed form, the posterior, tiles, and configurations.

The whole is held to diffusers' in tests/crosscheck.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskdiff_jax.models import autoencoder_layers as layers
from maskdiff_jax.models.autoencoder import autoencoder_kl, codec, fades, starts, tiled
from tests.models.perturb import random_params

SD = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
TINY = {"block_out_channels": [4, 8], "norm_num_groups": 2, "latent_channels": 3, "shift_factor": 0.25}
IMAGES = jax.random.uniform(jax.random.key(1), (2, 10, 14, 3), minval=-1.0)
LATENTS = jax.random.normal(jax.random.key(2), (2, 5, 5, 3))


@cache
def tiny():
    return autoencoder_kl(TINY)


@cache
def params():
    return random_params(tiny().init, 0.2)


@cache
def jitted(name):
    return jax.jit(getattr(tiny(), name), static_argnums=(2, 3) if name == "decode_tiled" else ())


@cache
def compiled():
    """The autoencoder of which the two networks are compiled once for all tests."""
    return tiny()._replace(encode=jitted("encode"), decode=jitted("decode"))


def count(config) -> int:
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(autoencoder_kl(config).init, jax.random.key(0))))


def test_sizes_of_the_published_ones():
    """Of Stable Diffusion's, and of the one with 16 channels and no 1×1 convolutions at the latents."""
    assert count(SD) == 83_653_863
    quant, post_quant = 8 * 8 + 8, 4 * 4 + 4
    wider = 9 * 512 * (32 - 8 + 16 - 4) + 32 - 8
    sixteen = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    assert count(SD | sixteen) == 83_653_863 - quant - post_quant + wider


def test_shapes():
    published = autoencoder_kl(SD)
    shapes = jax.eval_shape(published.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 256, 192, 3), jnp.float32)
    mean, std = jax.eval_shape(published.encode, shapes, images)
    assert mean.shape == std.shape == (2, 32, 24, 4) == (2, *codec(published).shape((256, 192, 3)))
    assert jax.eval_shape(published.decode, shapes, mean).shape == images.shape


def test_a_fresh_network_is_finite_and_drawn_from_its_key():
    init = jax.jit(tiny().init)
    fresh, again, other = (init(jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, fresh, again)
    assert np.any(fresh["encoder"]["conv_in"]["kernel"] != other["encoder"]["conv_in"]["kernel"])
    (_, std), image = jitted("encode")(fresh, IMAGES), jitted("decode")(fresh, LATENTS)
    assert np.isfinite(image).all() and np.all(np.asarray(std) > 0) and np.std(image) > 0.01


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return layers.norm(x, 2, name="norm")


def test_norms_keep_their_digits_far_from_zero():
    """Of a mean of 1000 standard deviations, whose square takes all digits of float32 from the variance."""
    x = 1000 + jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    weights = random_params(lambda key: Norm().init(key, x)["params"], 1.0)
    groups = np.asarray(x, np.float64).reshape(2, 15, 2, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    normal = (centred / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)).reshape(x.shape)
    scale, bias = (weights["norm"][name][None, None, None] for name in ("scale", "bias"))
    np.testing.assert_allclose(Norm().apply({"params": weights}, x), normal * scale + bias, atol=2e-3)


@pytest.mark.parametrize("corner", [0, 2])
def test_sides_are_halved_from_the_first_pixel_with_0_after_the_last(corner):
    """A kernel that is 1 in one corner picks pixels 0, 2, ... or 2, 4, ... and then 0."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[corner, corner] = 1
    weights = {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    picked = jnp.pad(x, ((0, 0), (0, 2), (0, 2), (0, 0)))[:, corner::2, corner::2][:, :2, :3]
    np.testing.assert_array_equal(layers.Downsampler("float32").apply({"params": weights}, x), picked)


def test_attention_has_one_head():
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    module = layers.AttentionBlock(2, "float32")
    weights = random_params(lambda key: module.init(key, jnp.asarray(x))["params"], 0.5)

    def project(h, name):
        return h @ weights[name]["kernel"] + weights[name]["bias"]

    groups = x.reshape(2, 6, 2, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    h = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(2, 6, 4)
    h = h * weights["group_norm"]["scale"] + weights["group_norm"]["bias"]
    logits = project(h, "to_q") @ project(h, "to_k").swapaxes(1, 2) / np.sqrt(4)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = x + project(share @ project(h, "to_v"), "to_out_0").reshape(x.shape)
    np.testing.assert_allclose(module.apply({"params": weights}, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_the_logarithm_of_the_variance_is_clipped():
    """To [-30, 20]; means are not."""
    quant = {"kernel": np.zeros((1, 1, 6, 6), np.float32), "bias": np.float32([500, -500, 0, 1000, -1000, 2])}
    mean, std = jitted("encode")(params() | {"quant_conv": quant}, IMAGES)
    np.testing.assert_array_equal(mean, np.broadcast_to(np.float32([500, -500, 0]), mean.shape))
    np.testing.assert_allclose(std, np.broadcast_to(np.exp(np.float32([10, -15, 1])), std.shape), rtol=1e-6)


def test_samples_have_the_moments_of_the_posterior_and_one_key_each():
    n = 500
    posterior = mean, std = [np.asarray(moment) for moment in jitted("encode")(params(), IMAGES)]
    images, keys = jnp.zeros((n, 1, 1, 3)), jax.random.split(jax.random.key(0), n)
    first = codec(tiny()._replace(encode=lambda *_: [jnp.tile(moment[:1], (n, 1, 1, 1)) for moment in posterior]))
    encode = jax.jit(first.encode)
    z = np.asarray(encode(params(), images, keys))
    np.testing.assert_array_equal(encode(params(), images, keys), z)
    np.testing.assert_allclose(encode(params(), images, keys[::-1])[::-1], z, rtol=1e-5, atol=1e-6)

    eps = (z / tiny().scaling + tiny().shift - mean[:1]) / std[:1]
    samples = np.sqrt(eps.size)
    assert np.std(std) > 0.01 and abs(eps.mean()) < 4 / samples and abs(eps.var() - 1) < 4 * np.sqrt(2) / samples
    np.testing.assert_allclose(eps.mean(0), 0, atol=4.5 / np.sqrt(n))
    np.testing.assert_allclose(eps.var(0), 1, atol=4.5 * np.sqrt(2 / n))


def test_the_codec_scales_the_shifted_mean_and_undoes_it():
    plain = codec(compiled(), sample=False)
    z = plain.encode(params(), IMAGES, jax.random.split(jax.random.key(0), 2))
    mean, _ = jitted("encode")(params(), IMAGES)
    np.testing.assert_allclose(z, (mean - 0.25) * 0.18215, rtol=1e-5, atol=1e-6)
    assert z.shape[1:] == plain.shape(IMAGES.shape[1:])
    expected = jitted("decode")(params(), mean[:, :, :5])
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(plain.decode(params(), z[:, :, :5]), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_and_answers_in_float32():
    half = autoencoder_kl(TINY, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0)))} == {"float32"}
    found = [*jax.jit(half.encode)(params(), IMAGES), jax.jit(half.decode)(params(), LATENTS)]
    expected = [*jitted("encode")(params(), IMAGES), jitted("decode")(params(), LATENTS)]
    for ours, exact in zip(found, expected, strict=True):
        error = np.abs(ours - exact).max() / np.std(exact)
        assert ours.dtype == jnp.float32 and 1e-6 < error < 0.1


def test_one_tile_is_the_decoder_itself():
    whole = np.asarray(jitted("decode")(params(), LATENTS))
    np.testing.assert_array_equal(jitted("decode_tiled")(params(), LATENTS, 5, 3), whole)


def test_two_tiles_fade_linearly_from_one_to_the_other():
    """Columns 0 to 4 and 2 to 6 of 7 latents, on which the norms differ: 3 latents, 6 pixels, are shared."""
    whole = jax.random.normal(jax.random.key(2), (2, 5, 7, 3))
    left, right = (np.asarray(jitted("decode")(params(), part)) for part in (whole[:, :, :5], whole[:, :, 2:]))
    rise = ((np.arange(6) + 0.5) / 6)[None, None, :, None]
    shared = left[:, :, 4:] * (1 - rise) + right[:, :, :6] * rise
    expected = np.concatenate([left[:, :, :4], shared, right[:, :, 6:]], axis=2)
    assert np.abs(left[:, :, 4:] - right[:, :, :6]).max() > 0.01
    np.testing.assert_allclose(jitted("decode_tiled")(params(), whole, 5, 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tile", "overlap"), [(2, 0), (2, 1), (3, 1), (4, 3), (6, 2)])
@pytest.mark.parametrize("shape", [(5, 9), (11, 4), (8, 8)], ids=str)
def test_tiles_of_a_decoder_that_looks_at_one_latent_change_nothing(shape, tile, overlap):
    """Each pixel in its place, and the weights 1 in sum."""
    z = jax.random.normal(jax.random.key(0), (2, *shape, 2))

    def enlarge(part):
        return layers.double(part) * 3 + 1

    np.testing.assert_allclose(tiled(enlarge, z, tile, overlap, 2), enlarge(z), rtol=1e-5, atol=1e-5)


def test_tiles_cover_and_overlap_as_asked_and_are_as_few_as_can_be():
    for n in range(1, 30):
        for tile in range(1, n + 1):
            for overlap in range(tile):
                places = starts(n, tile, overlap)
                steps = np.diff(places)
                assert places[0] == 0 and places[-1] == n - tile
                assert np.all(steps > 0) and np.all(steps <= tile - overlap)
                assert n - tile > (tile - overlap) * (len(places) - 2)  # one fewer would not reach the end


def test_weights_are_between_0_and_1_and_rise_by_equal_steps():
    weights = fades([0, 5, 9], 8, 2)  # of 16 pixels, 6 and then 8 of them shared
    assert weights.shape == (3, 16) and weights.min() >= 0 and weights.max() == 1
    for steps, rise in ((weights[0, 10:], -1 / 6), (weights[1, :6], 1 / 6), (weights[2, :8], 1 / 8)):
        np.testing.assert_allclose(np.diff(steps), rise, atol=1e-6)


REFUSED = {
    "act_fn": ("relu", "act_fn='relu': choose 'silu'"),
    "_class_name": ("AutoencoderTiny", "_class_name='AutoencoderTiny': choose 'AutoencoderKL'"),
    "latents_mean": ([0.1], r"latents_mean=\[0.1\]: choose None"),
    "depth": (3, "depth=3 is no option of AutoencoderKL: choose from in_channels, out_channels, "),
    "in_channels": (0, "in_channels=0: choose a whole number from 1 on"),
    "layers_per_block": (True, "layers_per_block=True: choose a whole number from 1 on"),
    "use_quant_conv": (1, "use_quant_conv=1: choose True or False"),
    "block_out_channels": ([4, 9], r"block_out_channels=\[4, 9\]: choose a list of multiples of norm_num_groups=2"),
    "down_block_types": (["DownEncoderBlock2D"], r"down_block_types=\['Down\w+'\]: choose \['Down\w+', 'Down\w+'\]"),
    "up_block_types": (["AttnUp", "AttnUp"], r"up_block_types=\['AttnUp', 'AttnUp'\]: choose \['UpDecoderBlock2D', "),
    "scaling_factor": (0, "scaling_factor=0: choose a finite number other than 0"),
    "shift_factor": (float("nan"), "shift_factor=nan: choose a finite number or None"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_other_networks_are_refused(key):
    value, message = REFUSED[key]
    with pytest.raises(ValueError, match=f"^{message}"):
        autoencoder_kl(TINY | {key: value})


def test_other_calls_are_refused():
    with pytest.raises(ValueError, match="dtype='float16': choose from float32, bfloat16"):
        autoencoder_kl(TINY, dtype="float16")
    with pytest.raises(ValueError, match="divides sides by 2, which an image of 3×4 does not allow"):
        tiny().encode(params(), jnp.zeros((1, 3, 4, 3)))
    with pytest.raises(ValueError, match="encodes images of 3 channels, not 1"):
        codec(tiny()).shape((4, 4, 1))
    with pytest.raises(ValueError, match="decodes latents of 3 channels, not 4"):
        tiny().decode(params(), jnp.zeros((1, 3, 4, 4)))
    with pytest.raises(ValueError, match="tile=2 and overlap=2: choose 0 <= overlap < tile"):
        tiny().decode_tiled(params(), LATENTS, 2, 2)


def test_a_configuration_is_completed_and_names_nothing_private():
    config = autoencoder_kl(TINY | {"_diffusers_version": "0.1", "sample_size": 512}).config
    assert config["down_block_types"] == ["DownEncoderBlock2D"] * 2 and config["sample_size"] == 512
    assert autoencoder_kl(config).config == config and not any(key.startswith("_") for key in config)
    assert (autoencoder_kl({}).scaling, autoencoder_kl({}).shift, autoencoder_kl({}).factor) == (0.18215, 0, 1)
