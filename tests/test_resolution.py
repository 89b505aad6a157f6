"""Stages that raise the resolution: what they build, that nothing is lost between them, and what their shift means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import resolution
from configs import digits_resolution
from maskdiff_jax.diffusion.process import coeffs
from maskdiff_jax.evaluate.curves import Curve
from maskdiff_jax.models import MODELS
from maskdiff_jax.models.transfer import plan_transfer
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.stages import build_stages, stage_configs
from maskdiff_jax.tokens import sincos_2d

STAGED = [name for name, changes in digits_resolution.VARIANTS.items() if "stages" in changes]
BACKBONES = {
    "dit": {},
    "mdt": {"depth": 3, "decoder": 1},
    "pixart": {},
    "mmdit": {},
    "uvit": {},
}


@pytest.fixture(scope="module")
def stages():
    return build_stages(digits_resolution.get_config())


def test_the_images_grow_and_every_parameter_is_kept(stages):
    low, high = stages
    assert low.experiment.image_shape == (4, 4, 1) and high.experiment.image_shape == (8, 8, 1)
    assert low.experiment.model.tokens.grid == (4, 4) == high.experiment.config.model.trained_grid
    assert high.experiment.model.tokens.grid == (8, 8)
    old, new = (jax.eval_shape(stage.experiment.model.init, jax.random.key(0)) for stage in stages)
    report = plan_transfer(old, new)
    assert not (report.resized or report.dropped or report.new)
    assert len(report.kept) == len(jax.tree.leaves(old))
    assert 3 < high.flops_per_image / low.flops_per_image < 5  # four times the tokens, 16 times the attention


def test_at_the_same_t_both_stages_see_the_same_noise(stages):
    """Means of 2×2 pixels of a noised image are the reduced image, noised as the stage of 4 px does at that t."""
    low, high = stages
    rng = np.random.default_rng(0)
    image, noise = rng.uniform(-1, 1, (64, 8, 8, 1)), rng.standard_normal((64, 8, 8, 1))
    reduce = lambda x: x.reshape(64, 4, 2, 4, 2, 1).mean((2, 4))  # noqa: E731
    for t in (0.1, 0.5, 0.9):
        small, large = (coeffs(stage.experiment.process, jnp.float32(t)) for stage in (low, high))
        seen = reduce(large.alpha * image + large.sigma * noise)
        clean, rest = large.alpha / small.alpha, reduce(large.sigma * noise)
        np.testing.assert_allclose(seen, clean * small.alpha * reduce(image) + rest, atol=1e-5)
        assert rest.std() == pytest.approx(float(clean * small.sigma), rel=0.05)


@pytest.mark.parametrize("variant", STAGED)
def test_variants_train_the_last_stage_on_one_loss(variant):
    *_, (_, last) = stage_configs(digits_resolution.get_config(variant))
    scratch = digits_resolution.get_config("scratch").to_dict()
    changed = {key for key, value in last.to_dict().items() if value != scratch[key]}
    assert changed <= {"name", "model"}
    assert {**last.model.to_dict(), "trained_grid": None} == {**scratch["model"], "trained_grid": None}


def test_ablations_change_what_they_are_called_after():
    (_, low), (_, high) = stage_configs(digits_resolution.get_config("no_shift"))
    assert low.shift == high.shift and low.augment.size == 4
    (_, low), (_, high) = stage_configs(digits_resolution.get_config("extrapolate"))
    assert high.shift == 2 * low.shift and high.model.get("trained_grid") is None


def test_interpolated_positions_stay_inside_the_trained_ones():
    """The mean of the four that a coarse position became lies near it; counted on, only the first does."""
    coarse, inside, beyond = sincos_2d(64, (2, 2)), sincos_2d(64, (4, 4), trained=(2, 2)), sincos_2d(64, (4, 4))
    quarters = lambda x: x.reshape(2, 2, 2, 2, -1).mean((1, 3)).reshape(4, -1)  # noqa: E731
    distance = lambda x: np.linalg.norm(quarters(x) - coarse, axis=1)  # noqa: E731
    assert (distance(inside) < 0.1 * np.linalg.norm(coarse, axis=1)).all()
    assert (distance(inside)[1:] < 0.5 * distance(beyond)[1:]).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_every_transformer_is_handed_over_to_another_resolution(name):
    """Fixed positions are read inside the trained grid and every parameter is kept; learned ones are resized."""
    size = {"patch": 2, "width": 16, "depth": 2, "heads": 2} | BACKBONES[name]
    learned = name == "uvit"
    models = (
        MODELS[name]((4, 4, 1), 10, **size),
        MODELS[name]((8, 8, 1), 10, **size, **({} if learned else {"trained_grid": (2, 2)})),
    )
    report = plan_transfer(*(jax.eval_shape(model.init, jax.random.key(0)) for model in models))
    assert not report.dropped and not report.new
    assert list(report.resized) == (["positions"] if learned else [])


def test_relative_positions_cannot_count_on():
    """They are a table with an entry for each offset: without the trained grid, MDT has another one."""
    size = {"patch": 2, "width": 16, "heads": 2} | BACKBONES["mdt"]
    models = (MODELS["mdt"](shape, 10, **size) for shape in ((4, 4, 1), (8, 8, 1)))
    with pytest.raises(
        ValueError, match=r"attention/table has shape \[3, 3, 2\] in the old and \[7, 7, 2\] in the new"
    ):
        plan_transfer(*(jax.eval_shape(model.init, jax.random.key(0)) for model in models))


WRONG = {
    "size of the first stage": (
        {"augment": {"size": 3}},
        r"stage 0 \(4px\): config.augment: size=3: images of 8x8 pixels are no multiple of it",
    ),
    "patch that the small images do not divide into": (
        {"model": {"patch": 8}},
        r"stage 0 \(4px\): config.model: patch=8 does not divide an image of 4×4",
    ),
    "shift": ({"shift": 0.0}, r"stage 0 \(4px\): config.shift: shift scale must be > 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_one_line(case):
    changes, message = WRONG[case]
    config = digits_resolution.get_config()
    first = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else changes.get(key, value)
        for key, value in config.stages[0].items()
    }
    with config.ignore_type():
        config.stages = (first, config.stages[1])
    with pytest.raises(ConfigError, match=message) as caught:
        build_stages(config)
    assert "\n" not in str(caught.value)


def test_an_unknown_variant_lists_the_choices():
    with pytest.raises(ValueError, match="variant 'shift': choose from no_shift, extrapolate, scratch, low, or none"):
        digits_resolution.get_config("shift")


def test_shares_of_the_steps_to_a_level():
    """A curve that falls from 4 to 1 in 100 steps is at 2.5 halfway; one that stays at 3 never is."""
    steps = np.array([0.0, 100.0])
    curve = lambda *values: Curve(dict.fromkeys(("steps", "flops", "seconds"), steps), np.array(values))  # noqa: E731
    found = resolution.shares([curve(4.0, 1.0), curve(3.0, 3.0)], level=2.5, steps=200.0)
    assert (found["seeds"], found["reached"]) == (2, 1)
    assert found["share"]["mean"] == pytest.approx(0.25)
    assert not resolution.holds(found)
    assert resolution.holds(resolution.shares([curve(4.0, 1.0)] * 2, level=2.5, steps=200.0))
    assert not resolution.holds(resolution.shares([curve(4.0, 1.0)] * 2, level=2.5, steps=90.0))


def test_the_campaign_starts_each_seed_from_its_own_pre_training(tmp_path):
    low, arms = resolution.campaign(tmp_path, 2)
    there = {str(run.workdir) for run in low}
    for label, found in arms.items():
        sources = [a.partition("=")[2] for run in found for a in run.arguments if a.startswith("--config.init_from=")]
        assert len(sources) == len(set(sources)) == (0 if label == "scratch" else 2)
        assert set(sources) <= there
        seeds = [source[-1] for source in sources]
        assert not seeds or seeds == [str(run.workdir)[-1] for run in found] == ["0", "1"]
