"""Guidance is a formula on two estimates, the identity at scale 1, and free outside its interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskdiff_jax.cond import null
from maskdiff_jax.diffusion.guidance import (
    GUIDANCES,
    auto,
    classifier_free,
    interval,
    resolution_scale,
    two_scale,
)
from maskdiff_jax.types import Cond, Denoised

B = 3
X = jax.random.normal(jax.random.key(0), (B, 2, 2, 1))
LABELS = Cond(label=jnp.arange(B, dtype=jnp.int32), controls_high=jnp.array([[3.0], [5.0], [7.0]]))
# Each member as a guidance of semantics alone, by one scale; what they all have in common is tested on these.
SEMANTIC = {
    "classifier_free": classifier_free,
    "interval": lambda scale: interval(scale, low=0.2, high=0.8),
    "two_scale": lambda scale: two_scale(semantic=scale, control=1.0),
}
guidances = pytest.mark.parametrize("name", GUIDANCES)


def conditional(x, t, cond):
    """Depends on x, t, the label (null: -1) and the controls; its variance tells the halves apart."""
    t = jnp.broadcast_to(t, x.shape[:1])
    part = (cond.label + 1) * (1 + t) + cond.controls_high[:, 0]
    return Denoised(x * 0.5 + part[:, None, None, None], jnp.broadcast_to(part[:, None, None, None], x.shape))


def expected(scale, t, cond=LABELS):
    free = conditional(X, t, cond._replace(label=jnp.full(B, -1))).x
    return free + scale * (conditional(X, t, cond).x - free)


def batch_size(x, t, cond):
    """How many images the denoiser was called with."""
    return Denoised(jnp.full(x.shape, float(len(x))))


@guidances
def test_scale_1_is_the_denoiser_itself(name):
    assert SEMANTIC[name](1.0)(conditional) is conditional


@guidances
@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("t", [0.5, np.array([0.3, 0.5, 0.7])], ids=["scalar", "vector"])
def test_formula(name, scale, t):
    t = jnp.asarray(t, jnp.float32)
    out = SEMANTIC[name](scale)(conditional)(X, t, LABELS)
    np.testing.assert_allclose(out.x, expected(scale, t), atol=1e-5)
    np.testing.assert_allclose(out.variance, conditional(X, t, LABELS).variance, rtol=1e-6)


@guidances
def test_text_is_guided_towards_too(name):
    text = Cond(text=jnp.ones((B, 2, 4)), text_mask=jnp.ones((B, 2), bool), controls_low=jnp.ones((B, 1)))
    denoiser = lambda x, t, cond: Denoised(x + cond.text_mask.sum(1)[:, None, None, None])  # noqa: E731
    out = SEMANTIC[name](3.0)(denoiser)(X, jnp.float32(0.5), text)
    np.testing.assert_allclose(out.x, X + 6, rtol=1e-6)


@guidances
def test_an_image_sharded_over_devices_is_guided_where_it_is(name):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    by_image, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    n = mesh.size
    x, cond = jnp.ones((n, 2, 2, 1)), Cond(label=jnp.arange(n, dtype=jnp.int32), controls_high=jnp.ones((n, 1)))
    guided = GUIDANCES["two_scale"](2.0, 3.0) if name == "two_scale" else SEMANTIC[name](2.0)
    run = jax.jit(guided(conditional), in_shardings=(by_image, everywhere, by_image), out_shardings=by_image)
    program = run.lower(x, jnp.float32(0.5), cond).compile().as_text()
    assert not [op for op in ("all-gather", "all-to-all", "collective-permute", "all-reduce") if op in program]


@pytest.mark.parametrize("t, factor", [(0.1, 1), (0.2, 2), (0.5, 2), (0.8, 2), (0.9, 1)])
def test_interval_evaluates_once_outside(t, factor):
    out = jax.jit(interval(3.0, 0.2, 0.8)(batch_size))(X, jnp.float32(t), LABELS)
    np.testing.assert_array_equal(out.x, factor * B)


def test_interval_with_a_time_per_image_chooses_per_image():
    t = jnp.array([0.1, 0.5, 0.9])
    out = interval(3.0, 0.2, 0.8)(conditional)(X, t, LABELS).x
    np.testing.assert_array_equal(out[::2], conditional(X, t, LABELS).x[::2])
    np.testing.assert_allclose(out[1], expected(3.0, t)[1], atol=1e-5)


@guidances
@pytest.mark.parametrize("cond", [Cond(), Cond(controls_high=jnp.ones((B, 1)))], ids=["nothing", "controls"])
def test_no_semantics_is_an_error(name, cond):
    with pytest.raises(ValueError, match=r"guidance needs a condition|two_scale needs controls"):
        jax.eval_shape(SEMANTIC[name](2.0)(conditional), X, jnp.float32(0.5), cond)


@pytest.mark.parametrize("scales", [(2.0, 3.0), (2.0, 2.0), (2.0, 1.0)])
def test_two_scale_needs_controls_whatever_its_scales(scales):
    with pytest.raises(ValueError, match="two_scale needs controls: controls_high and controls_low are both None"):
        jax.eval_shape(two_scale(*scales)(conditional), X, jnp.float32(0.5), Cond(label=LABELS.label))


def bilinear(x, t, cond):
    """Linear in x, with a term of the semantics, one of the controls, and one that needs both."""
    c, s = cond.label + 1.0, jnp.where(cond.controls_low[:, 0] < -1e5, 0.0, cond.controls_low[:, 0])
    part = (1 + jnp.broadcast_to(t, c.shape)) * c + 10 * s + 100 * c * s
    return Denoised(x * 0.5 + part[:, None, None, None], x + c[:, None, None, None])


@pytest.mark.parametrize("t", [0.5, np.array([0.3, 0.5, 0.7])], ids=["scalar", "vector"])
@pytest.mark.parametrize("control", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("semantic", [0.0, 1.0, 2.5])
def test_two_scale_is_its_formula_at_the_least_evaluations(semantic, control, t):
    cond = LABELS._replace(controls_low=jnp.array([[0.2], [0.4], [0.6]]))
    t, images = jnp.asarray(t, jnp.float32), []
    counted = lambda x, *rest: (images.append(len(x)), bilinear(x, *rest))[1]  # noqa: E731
    out = two_scale(semantic, control)(counted)(X, t, cond)
    both, controls, neither = (bilinear(X, t, c) for c in (cond, null(cond), null(cond, "all")))
    expected = neither.x + control * (controls.x - neither.x) + semantic * (both.x - controls.x)
    np.testing.assert_allclose(out.x, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(out.variance, both.variance)
    evaluations = 1 if semantic == control == 1 else 2 if semantic == control or control == 1 else 3
    assert images == [evaluations * B]


def test_two_scale_at_1_is_the_denoiser_itself():
    assert two_scale(1.0, 1.0)(conditional) is conditional


def test_two_scale_moves_apart_what_semantics_and_controls_do():
    """Without an interaction, each scale multiplies its own term: 0.5 x + semantic·c + control·s."""
    cond = Cond(label=jnp.arange(B), controls_low=jnp.array([[0.2], [0.4], [0.6]]))

    def additive(x, t, cond):
        s = jnp.where(cond.controls_low[:, 0] < -1e5, 0.0, cond.controls_low[:, 0])
        return Denoised(x * 0.5 + (cond.label + 1.0 + s)[:, None, None, None])

    out = two_scale(semantic=3.0, control=1.5)(additive)(X, jnp.float32(0.5), cond).x
    c, s = jnp.arange(B) + 1.0, cond.controls_low[:, 0]
    np.testing.assert_allclose(out, X * 0.5 + (3.0 * c + 1.5 * s)[:, None, None, None], rtol=1e-5)


def test_the_scale_grows_with_the_resolution():
    assert resolution_scale(4.0, 256, 512) == 7.0
    assert resolution_scale(4.0, 256, 256) == 4.0
    assert resolution_scale(1.0, 256, 512) == 1.0  # no guidance stays none
    through = resolution_scale(resolution_scale(2.5, 64, 128), 128, 512)
    np.testing.assert_allclose(through, resolution_scale(2.5, 64, 512))


def other(x, t, cond):
    """A second network, without a variance."""
    return Denoised(x * 0.2 - 1)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_auto_guidance_extrapolates_from_the_weak_denoiser(scale):
    out = auto(scale)(conditional, other)(X, jnp.float32(0.5), LABELS)
    strong, weak = conditional(X, 0.5, LABELS), other(X, 0.5, LABELS)
    np.testing.assert_allclose(out.x, weak.x + scale * (strong.x - weak.x), atol=1e-5)
    np.testing.assert_array_equal(out.variance, strong.variance)


def test_auto_guidance_of_scale_1_is_the_denoiser_itself():
    assert auto(1.0)(conditional, other) is conditional


def test_auto_guidance_needs_no_condition_and_calls_each_denoiser_once():
    calls = []

    def count(name):
        return lambda x, t, cond: (calls.append(name), Denoised(x))[1]

    auto(2.0)(count("strong"), count("weak"))(X, jnp.float32(0.5), Cond())
    assert calls == ["strong", "weak"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: classifier_free(-1.0), "classifier_free: scale"),
        (lambda: classifier_free(float("nan")), "classifier_free: scale"),
        (lambda: auto(-1.0), "auto: scale"),
        (lambda: interval(float("inf"), 0.2, 0.8), "interval: scale"),
        (lambda: two_scale(-1.0, 1.0), "two_scale: semantic must be finite and at least 0, got -1"),
        (lambda: two_scale(1.0, float("nan")), "two_scale: control must be finite and at least 0, got nan"),
        (lambda: resolution_scale(0.5, 256, 512), "scale must be finite and at least 1, got 0.5"),
        (lambda: resolution_scale(2.0, 0, 512), "trained_side=0"),
        (lambda: interval(2.0, 0.8, 0.2), "low < high"),
        (lambda: interval(2.0, -0.1, 0.2), "low < high"),
        (lambda: interval(2.0, 0.1, 1.2), "low < high"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
