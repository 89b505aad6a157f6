"""Guidance is a formula on two estimates, the identity at scale 1, and free outside its interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion.guidance import GUIDANCES, auto, classifier_free, interval
from maskdiff_jax.types import Cond, Denoised

B = 3
X = jax.random.normal(jax.random.key(0), (B, 2, 2, 1))
LABELS = Cond(label=jnp.arange(B, dtype=jnp.int32))
OPTIONS = {"classifier_free": {}, "interval": {"low": 0.2, "high": 0.8}}
guidances = pytest.mark.parametrize("name", GUIDANCES)


def conditional(x, t, cond):
    """Depends on x, t, the label (null: -1) and the controls; its variance tells the halves apart."""
    t = jnp.broadcast_to(t, x.shape[:1])
    part = (cond.label + 1) * (1 + t) + (0 if cond.controls_high is None else cond.controls_high[:, 0])
    return Denoised(x * 0.5 + part[:, None, None, None], jnp.broadcast_to(part[:, None, None, None], x.shape))


def expected(scale, t, cond=LABELS):
    free = conditional(X, t, cond._replace(label=jnp.full(B, -1))).x
    return free + scale * (conditional(X, t, cond).x - free)


def batch_size(x, t, cond):
    """How many images the denoiser was called with."""
    return Denoised(jnp.full(x.shape, float(len(x))))


@guidances
def test_scale_1_is_the_denoiser_itself(name):
    assert GUIDANCES[name](scale=1.0, **OPTIONS.get(name, {}))(conditional) is conditional


@guidances
@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("t", [0.5, np.array([0.3, 0.5, 0.7])], ids=["scalar", "vector"])
def test_formula(name, scale, t):
    t = jnp.asarray(t, jnp.float32)
    out = GUIDANCES[name](scale=scale, **OPTIONS.get(name, {}))(conditional)(X, t, LABELS)
    np.testing.assert_allclose(out.x, expected(scale, t), atol=1e-5)
    np.testing.assert_allclose(out.variance, conditional(X, t, LABELS).variance, rtol=1e-6)


@guidances
def test_controls_are_kept_in_both_halves(name):
    cond = LABELS._replace(controls_high=jnp.array([[3.0], [5.0], [7.0]]))
    out = GUIDANCES[name](scale=2.0, **OPTIONS.get(name, {}))(conditional)(X, jnp.float32(0.5), cond)
    np.testing.assert_allclose(out.x, expected(2.0, 0.5, cond), atol=1e-5)


@guidances
def test_text_is_guided_towards_too(name):
    text = Cond(text=jnp.ones((B, 2, 4)), text_mask=jnp.ones((B, 2), bool))
    denoiser = lambda x, t, cond: Denoised(x + cond.text_mask.sum(1)[:, None, None, None])  # noqa: E731
    out = GUIDANCES[name](scale=3.0, **OPTIONS.get(name, {}))(denoiser)(X, jnp.float32(0.5), text)
    np.testing.assert_allclose(out.x, X + 6, rtol=1e-6)


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
    guided = GUIDANCES[name](scale=2.0, **OPTIONS.get(name, {}))(conditional)
    with pytest.raises(ValueError, match="needs a condition"):
        jax.eval_shape(guided, X, jnp.float32(0.5), cond)


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
        (lambda: interval(2.0, 0.8, 0.2), "low < high"),
        (lambda: interval(2.0, -0.1, 0.2), "low < high"),
        (lambda: interval(2.0, 0.1, 1.2), "low < high"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
