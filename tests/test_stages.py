"""Stages: what each of them is built from, where it lies in the run, what it costs, and what is refused."""

import pytest
from ml_collections import ConfigDict

from maskdiff_jax.parts import ConfigError
from maskdiff_jax.stages import build_stages, stage_at, stage_configs
from tests.test_build import TINY, tiny

MASKED = {"name": "masked", "steps": 4, "batch": 16, "visibility": {"name": "patch", "ratio": 0.75}}
FULL = {"name": "full", "steps": 6, "clip": None, "schedule": {"learning_rate": 1e-5}}


def staged(*stages, **changes) -> ConfigDict:
    return tiny(stages=stages, **changes)


def test_a_stage_is_the_config_with_its_own_keys_in_place():
    config = staged(MASKED, FULL)
    (first, masked), (second, full) = stage_configs(config)
    assert (first, second) == ("masked", "full")
    assert masked.visibility.to_dict() == {"name": "patch", "ratio": 0.75} and full.visibility.name == "all"
    assert (masked.batch, masked.steps, masked.clip) == (16, 4, 1.0)
    assert (full.batch, full.steps, full.clip) == (8, 6, None)
    assert full.schedule.learning_rate == 1e-5 and full.schedule.warmup == config.schedule.warmup  # sections merge
    assert masked.schedule.learning_rate == config.schedule.learning_rate
    assert config.visibility.name == "all" and config.stages[0] == MASKED  # the config itself is as it was


def test_a_part_of_another_name_replaces_the_part():
    base = {"visibility": {"name": "patch", "ratio": 0.5}, "optimizer": {"name": "adamw", "b2": 0.5}}
    stages = ({"visibility": {"ratio": 0.75}}, {"visibility": {"name": "all"}, "optimizer": {"name": "adam"}})
    (_, first), (_, second) = stage_configs(tiny(stages=stages, **base))
    assert first.visibility.to_dict() == {"name": "patch", "ratio": 0.75}
    assert second.visibility.to_dict() == {"name": "all"} and second.optimizer.to_dict() == {"name": "adam"}


def test_one_stage_is_the_config_itself():
    ((name, config),) = stage_configs(tiny())
    assert name == "" and config.steps == 10


def test_places_and_costs_add_up():
    masked, full = build_stages(staged(MASKED, FULL))
    assert (masked.start, masked.stop, full.start, full.stop) == (0, 4, 4, 10)
    assert [masked.images_at(s) for s in (0, 4)] == [0, 64] and [full.images_at(s) for s in (4, 10)] == [64, 112]
    assert 0.2 < masked.flops_per_image / full.flops_per_image < 0.5  # one of four tokens, and what is not per token
    assert full.flops_at(10) == 64 * masked.flops_per_image + 48 * full.flops_per_image
    assert [stage_at((masked, full), step).name for step in (0, 1, 4, 5, 10)] == ["masked"] * 3 + ["full"] * 2


WRONG = {
    "not a tuple": ({"stages": "masked"}, "config.stages: a tuple of dicts, got 'masked'"),
    "not a dict": ({"stages": ("masked",)}, r"config.stages\[0\]: a dict of keys, got 'masked'"),
    "unknown key": ({"stages": ({"stepz": 3},)}, r"config.stages\[0\].stepz: no such key; there are"),
    "key of the run": ({"stages": ({"seed": 3},)}, r"config.stages\[0\].seed: belongs to the whole run"),
    "same names": ({"stages": (MASKED, MASKED)}, "config.stages: two stages are called alike: masked, masked"),
    "bad ratio": (
        {"stages": (MASKED | {"visibility": {"name": "patch", "ratio": 1.0}}, FULL)},
        r"stage 0 \(masked\): config.visibility: ratio=1.0",
    ),
    "block that does not divide": (
        {"stages": (MASKED | {"visibility": {"name": "block", "ratio": 0.5, "block": 3}}, FULL)},
        r"stage 0 \(masked\): config.objective: .*block=3",
    ),
    "crop larger than the grid": (
        {"stages": (MASKED | {"visibility": {"name": "crop", "side": 3}}, FULL)},
        r"stage 0 \(masked\): config.objective: .*side=3",
    ),
    "another width": (
        {"stages": (MASKED, FULL | {"model": {"width": 32}})},
        r"stage 1 \(full\): config.handover: .*another architecture",
    ),
    "another backbone": (
        {"stages": (FULL, {"name": "unet", "model": {"name": "unet", "base": 32}})},
        r"stage 1 \(unet\): config.handover: .*another architecture",
    ),
    "masks on a U-Net": (
        {"model": {"name": "unet", "base": 32}, "stages": (MASKED, FULL)},
        r"stage 0 \(masked\): config.objective: a network without tokens \(a U-Net\) cannot hide tokens",
    ),
    "unknown handover": ({"handover__weights": "average"}, "unknown 'average'; choose from raw, ema"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_one_line(case):
    changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as caught:
        build_stages(tiny(**changes))
    assert "\n" not in str(caught.value)


def test_stages_of_another_class_count_or_resolution_are_handed_over():
    """Leaves that have an adapter may change their shape from stage to stage."""
    small = {"name": "uvit", "patch": 2, "width": 16, "depth": 1, "heads": 2}
    stages = ({"name": "a", "model": {"patch": 4}}, {"name": "b"})
    with pytest.raises(ConfigError, match="stage 1"):  # a patch of another size has no adapter
        build_stages(tiny(model=small, stages=stages))
    assert TINY["patch"] == 4
