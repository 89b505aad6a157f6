"""The configs that encode and train on latents: they build, on small latents, and their docstrings count right."""

from importlib import import_module

import jax
import pytest

from maskdiff_jax.data import DATASETS
from maskdiff_jax.models import MODELS
from maskdiff_jax.parts import find, part
from maskdiff_jax.stages import build_stages
from maskdiff_jax.types import CondShape
from tests.latent_folders import write_latents

CLIP_L = CondShape(text_length=77, text_width=768, pooled_width=768)
CONDITIONS = {
    "imagenet256_dit_b2_latent": CondShape(classes=1000),
    "imagenet256_maskdm_b2_latent": CondShape(classes=1000),
    "folder_latent": CondShape(),
    "cc12m_mmdit": CLIP_L,
}


def config_of(name, *argument):
    return import_module(f"configs.{name}").get_config(*argument)


@pytest.mark.parametrize("name", CONDITIONS)
def test_parameters_are_those_that_the_docstring_states(name):
    model = part("model", MODELS, config_of(name).model, (32, 32, 4), CONDITIONS[name])
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
    assert f"{count:,} parameters" in (import_module(f"configs.{name}").__doc__ or "")


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_stage_builds_on_small_latents(name, tmp_path):
    options = {"text": (3, 5, 4), "classes": 0} if CONDITIONS[name] is CLIP_L else {}
    config = config_of(name)
    config.data.path = str(write_latents(tmp_path / "latents", mirrored=True, side=8, **options))
    config.batch = 64
    for stage in config.stages:
        stage["batch"] = 64
    config.model.update({"width": 32, "depth": 2, "heads": 2})
    config.sample.steps = 5
    stages = build_stages(config)
    assert [stage.experiment.model.tokens.grid for stage in stages] == [(4, 4)] * max(len(config.stages), 1)
    assert stages[0].experiment.picture_shape == (16, 16, 3) and stages[0].experiment.pictures is None
    assert stages[0].experiment.cond.text_length == (3 if options else 0)
    find("encode.data", DATASETS, config.encode.data.name)


def test_a_folder_is_named_once():
    config = config_of("folder_latent", "my/pictures/")
    assert (config.encode.data.path, config.data.path) == ("my/pictures/", "my/pictures-latents")
