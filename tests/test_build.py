"""A config becomes an experiment, or one clear line that names what is wrong, where, and the choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.build import build, make_sample
from maskdiff_jax.checks import best_sign, check_values
from maskdiff_jax.config import default_config
from maskdiff_jax.inference import condition
from maskdiff_jax.overrides import drop_stale_options, own_overrides, put
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.types import Batch

TINY = {"name": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2}


def tiny(**changes):
    config = default_config()
    config.steps, config.batch, config.schedule.warmup = 10, 8, 2
    config.model = dict(TINY)
    config.sample.steps = 3
    with config.ignore_type():
        for path, value in changes.items():
            section, keys = config, path.split("__")
            for key in keys[:-1]:
                section = section[key]
            section[keys[-1]] = value
    return config


def test_checkpoints_are_ranked_by_the_better_end_of_their_metric():
    metrics = ("heldout_ema/loss", "quality/pixel_frechet", "quality/class_accuracy", "quality/fid", "quality/recall")
    assert [best_sign(metric) for metric in metrics] == [1, 1, -1, 1, -1]


WRONG = {  # the change, and what the message must say
    "unknown name": (
        {"weighting": {"name": "debiased"}},
        "config.weighting.name: unknown 'debiased' (did you mean 'debias'?); choose from constant",
    ),
    "ranking by what is not measured": (
        {"log__keep_best": 1, "log__heldout_every": 300},
        "config.log.keep_best: log.heldout_every=300 must divide log.checkpoint_every=500, as every checkpoint needs",
    ),
    "ranking by an unknown metric": (
        {"log__keep_best": 1, "log__best_metric": "train/loss"},
        "config.log.best_metric: 'train/loss' is not measured regularly; choose from heldout/…",
    ),
    "misspelt ranking": (
        {"log__keep_best": 1, "log__best_metric": "heldout_ema/lost"},
        "config.log.best_metric: 'heldout_ema' has no 'lost' to rank by (did you mean 'loss'?); choose from loss, ",
    ),
    "ranking by what has no good end": (
        {"log__keep_best": 1, "log__best_metric": "quality/nearest_train_distance"},
        "config.log.best_metric: 'quality' has no 'nearest_train_distance' to rank by",
    ),
    "ranking without checkpoints": (
        {"log__keep_best": 1, "log__checkpoint_every": 0},
        "config.log.keep_best: log.heldout_every=500 must divide log.checkpoint_every=0",
    ),
    "engine": ({"parallel__engine": "pmap"}, "config.parallel.engine: unknown 'pmap'; choose from jit, shard_map"),
    "spike": ({"guard__spike": 0.5}, "config.guard.spike: spike is a multiple of the mean gradient norm"),
    "unknown mask": (
        {"supervision": {"name": "random"}},
        "config.supervision.name: unknown 'random'; choose from dense, sparse, or name your own",
    ),
    "misspelt option": (
        {"supervision": {"name": "sparse", "ratoi": 0.5}},
        "config.supervision.ratoi: 'sparse' has no such option (did you mean 'ratio'?)",
    ),
    "missing option": ({"supervision": {"name": "sparse"}}, "config.supervision: 'sparse' needs the option 'ratio'"),
    "misspelt key": ({"stepz": 3}, "config.stepz: no such key (did you mean 'steps'?)"),
    "misspelt key in a section": ({"log__evry": 3}, "config.log.evry: no such key (did you mean 'every'?)"),
    "ratio of one": ({"supervision": {"name": "sparse", "ratio": 1.0}}, "config.supervision: ratio=1.0"),
    "negative ratio": ({"visibility": {"name": "patch", "ratio": -0.1}}, "config.visibility: ratio=-0.1"),
    "nothing visible": ({"visibility": {"name": "patch", "ratio": 0.9999999}}, "leaves none of 4 units"),
    "indivisible image": ({"model": TINY | {"patch": 3}}, "config.model: patch=3 does not divide an image of 8×8"),
    "wrong type": ({"model": TINY | {"width": "wide"}}, "config.model"),
    "batch and micro-batches": ({"accumulate": 3}, "config.batch: a global batch of 8 does not divide evenly"),
    "no steps": ({"steps": 0}, "config.steps: a whole number of at least 1, got 0"),
    "guidance without a condition": (
        {"condition__label": False, "sample__guidance": {"name": "classifier_free", "scale": 2.0}},
        "config.sample: guidance needs a condition",
    ),
    "table inputs on a flow": (
        {"inputs": {"name": "discrete"}},
        "config.objective: inputs 'discrete' need a process with a table",
    ),
    "learning rate": ({"schedule__learning_rate": -1.0}, "config.schedule: learning_rate must be positive"),
    "warm-up longer than the run": ({"schedule__warmup": 99}, "config.schedule: warmup must be in [0, steps)"),
    "drop rate": ({"condition__drop_semantics": 1.5}, "drop rates must be"),
    "space of the held-out loss": ({"evaluate__space": "noise"}, "config.evaluate.space: unknown prediction 'noise'"),
    "section as a value": ({"weighting": 3}, "config.weighting is a section of keys, not 3"),
    "data set that is not prepared": (
        {"data": {"name": "tfds", "dataset": "cifar10", "data_dir": "nowhere"}},
        "nowhere",
    ),
    "own part that is not there": (
        {"weighting": {"name": "tests.plugins:powr"}},
        "config.weighting.name: cannot import 'tests.plugins:powr': module 'tests.plugins' has no attribute 'powr'",
    ),
    "option of an own part": (
        {"weighting": {"name": "tests.plugins:power", "exponnt": 2.0}},
        "has no such option (did you mean 'exponent'?)",
    ),
    "profiled steps": ({"profile": "20:10"}, "config.profile: two step numbers"),
    "no average": ({"ema": ()}, "config.ema: name at least one decay"),
    "shift": ({"shift": 0.0}, "config.shift: shift scale must be > 0"),
    "control that the data lack": (
        {"condition__controls_high": ("flipp",), "augment": {"name": "flip"}},
        "config.condition.controls_high: the data record no 'flipp' (did you mean 'flip'?); choose from",
    ),
    "controls without an augmentation": (
        {"condition__controls_low": ("contrast",)},
        "config.condition.controls_low: the data record no 'contrast'",
    ),
    "a network for controls that are not asked for": (
        {"model": TINY | {"conditioning": {"label": {}, "controls": {}}}},
        "config.model: conditioning on controls needs at least one, got controls_high=0",
    ),
    "a network for text that the data lack": (
        {"model": TINY | {"conditioning": {"text": {}}}},
        "config.model: conditioning on text needs text",
    ),
    "a backbone that takes no vectors": (
        {"model": {"name": "uvit", "patch": 4, "width": 16, "depth": 1, "heads": 2, "conditioning": {"label": {}}}},
        "config.model: conditioning='label' gives a vector, and uvit takes tokens only: use label_token",
    ),
    "two-scale guidance without controls": (
        {"sample__guidance": {"name": "two_scale", "semantic": 2.0, "control": 1.5}},
        "config.sample: ",
    ),
    "second pass": ({"second_pass__weight": -1.0}, "config.second_pass.weight: finite and at least 0, got -1.0"),
    "a crop larger than the image": (
        {"augment": {"name": "resize_centre", "size": 9}},
        "config.augment: ",
    ),
    "an image that does not divide": (
        {"augment": {"name": "canvas", "size": 18, "largest": 12}},
        "config.model: patch=4 does not divide an image of 18×18",
    ),
    "odd sides under wavelets": (
        {"codec": {"name": "haar"}, "augment": {"name": "canvas", "size": 17}},
        "config.codec: ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_configs_say_what_is_wrong_and_where_in_one_line(case):
    changes, text = WRONG[case]
    with pytest.raises(ValueError) as error:
        build(tiny(**changes))
    assert text in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, ConfigError) or "nowhere" in text


COMPOSED = {
    "sparse + patch + debias": {
        "supervision": {"name": "sparse", "ratio": 0.5},
        "visibility": {"name": "patch", "ratio": 0.5},
        "weighting": {"name": "debias"},
        "loss__normalise": True,
    },
    "ddpm table, eps": {
        "process": {"name": "ddpm_linear"},
        "prediction": {"name": "eps"},
        "inputs": {"name": "discrete"},
        "times": {"name": "discrete_uniform"},
        "weighting": {"name": "min_snr"},
        "model": TINY | {"level_scale": 1.0},
        "sample__sampler": {"name": "ancestral"},
        "loss__max_weight": 10.0,
    },
    "edm": {
        "process": {"name": "edm"},
        "prediction": {"name": "edm"},
        "inputs": {"name": "edm"},
        "times": {"name": "edm_lognormal"},
        "weighting": {"name": "edm"},
        "sample__sampler": {"name": "heun"},
        "sample__spacing": {"name": "karras"},
        "shift": 2.0,
    },
    "parts of one's own": {
        "supervision": {"name": "tests.plugins:left_half"},
        "weighting": {"name": "tests.plugins:power", "exponent": 0.5},
        "sample__sampler": {"name": "tests.plugins:half_noisy"},
        "model": {"name": "tests.plugins:small_dit"},
    },
    "unconditional, tinted": {"condition__label": False, "data": {"name": "digits", "tint": True}},
    "all four methods": {
        "supervision": {"name": "sparse", "ratio": 0.5},
        "visibility": {"name": "block", "ratio": 0.5, "block": 2},
        "weighting": {"name": "debias"},
        "augment": {"name": "canvas"},
        "condition__controls_high": ("offset_top", "flip"),
        "condition__controls_low": ("contrast",),
        "condition__drop_everything": 0.1,
        "condition__phase": {"name": "cosine"},
        "model": TINY | {"conditioning": {"label_token": {}, "controls": {}}},
        "sample__guidance": {"name": "two_scale", "semantic": 2.0, "control": 1.5},
    },
    "masked wavelets": {
        "codec": {"name": "haar"},
        "condition__label": False,
        "visibility": {"name": "patch", "ratio": 0.5},
        "model": {"name": "uvit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "segments": (1, 3)},
    },
    "full and masked pass": {
        "second_pass__weight": 1.0,
        "model": {"name": "mdt", "patch": 2, "width": 16, "depth": 4, "decoder": 2, "heads": 2},
    },
}


@pytest.mark.parametrize("case", COMPOSED)
def test_the_methods_compose_into_a_loss_and_a_sampler(case):
    experiment = build(tiny(**COMPOSED[case]))
    params = jax.jit(experiment.model.init)(jax.random.key(0))
    h, w, c = experiment.image_shape
    cond = condition(experiment, np.arange(8) if experiment.cond.classes else None, 8)
    batch = Batch(jnp.zeros((8, h, w, c)), cond)
    loss, _ = jax.jit(experiment.objective.loss)(params, batch, jax.random.key(1))
    generate = jax.jit(make_sample(experiment, experiment.config.sample))
    images = generate(params, jax.random.split(jax.random.key(2), 8), cond)
    assert np.isfinite(loss) and loss > 0
    assert images.shape == (8, h, w, c) and np.isfinite(images).all()
    if experiment.config.codec.name == "identity":  # codes are held in [-1, 1], not what they decode to
        assert np.abs(images).max() <= 1


def test_what_ml_collections_cannot_take_is_taken_from_the_command_line():
    """Paths into stages, and None, which it would read as a number."""
    given = ["main.py", "--config.steps=3", "--config.clip=None", "--out=None", "--config.stages[0].batch=4"]
    left, own = own_overrides(given)
    assert left == ["main.py", "--config.steps=3", "--out=None"] and own == {"clip": None, "stages[0].batch": 4}
    config = tiny(stages=({"name": "a", "batch": 8},))
    for path, value in own.items():
        put(config, path, value)
    assert config.clip is None and config.stages[0]["batch"] == 4
    check_values(config)
    with pytest.raises(ValueError, match=r"--config.stages\[0\].batch: give the value with ="):
        own_overrides(["--config.stages[0].batch", "4"])


def test_another_name_drops_the_options_of_the_old_one_and_keeps_the_new():
    original, config = default_config(), default_config()
    config.weighting.name, config.weighting.gamma = "p2", 0.5
    config.supervision.name = "dense"
    overrides = {"weighting.name": "p2", "weighting.gamma": 0.5, "supervision.name": "dense"}
    drop_stale_options(config, original, overrides)
    assert config.weighting.to_dict() == {"name": "p2", "gamma": 0.5}
    assert config.supervision.to_dict() == {"name": "dense"}
    assert config.times.to_dict() == original.times.to_dict()
