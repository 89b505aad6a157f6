"""The configs of latents describe the published networks, parameter for parameter."""

from importlib import import_module

import jax
import pytest

from configs import imagenet256_dit
from maskdiff_jax.build import cond_shape
from maskdiff_jax.checks import check_controls, check_values
from maskdiff_jax.config import default_config
from maskdiff_jax.data import AUGMENTS, DATASETS
from maskdiff_jax.models import MODELS
from maskdiff_jax.parts import check_keys, part

# Of DiT, MDTv2, PixArt-α and LDM the docstrings of the models account for every difference to the published counts.
PARAMETERS = {
    "dit": 674_834_720,
    "mdt": 741_672_688,
    "pixart": 605_961_248,
    "mmdit": 1_325_594_840,
    "unet": 407_106_440,
}
COUNTED = ("dit", "mdt", "pixart")  # of this size: tests/weights/test_dit.py, tests/models/test_mdt.py, test_pixart.py
LARGEST = {"preset": "XL", "patch": 2, "learned_variance": True, "level_scale": 1.0, "dtype": "bfloat16"}
WIDTH = {"unet": 768}  # of condition vectors
SHALLOW = {
    "dit": {"depth": 2},
    "mdt": {"depth": 4, "decoder": 2},
    "pixart": {"depth": 2},
    "mmdit": {"depth": 2},
    "unet": {"blocks": 1},
}
FEATURES = 2 * 256  # of the height and the width of the original


def config_of(name, variant=""):
    return import_module(f"configs.imagenet256_{name}").get_config(variant)


def shapes(config, **changes):
    """The parameters' shapes, under ``changes`` to the network; nothing is computed and no loss traced."""
    config.model.update(changes)
    dataset = part("data", DATASETS, config.data)
    model = part("model", MODELS, config.model, dataset.shape, cond_shape(dataset, config.condition))
    return jax.eval_shape(model.init, jax.random.key(0))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_that_the_docstring_states(name):
    config = config_of(name)
    if name in COUNTED:  # so is their size by the tests of the models
        assert config.model.to_dict() == LARGEST | {"name": name}
    else:
        assert size(shapes(config)) == PARAMETERS[name]
    assert f"{PARAMETERS[name]:,} parameters" in (import_module(f"configs.imagenet256_{name}").__doc__ or "")


@pytest.mark.parametrize("name", PARAMETERS)
def test_two_controls_cost_one_small_network(name):
    """Two layers from the features of both numbers, whichever way the label comes in; a label is one table."""
    plain, controlled = (shapes(config_of(name, variant), **SHALLOW[name]) for variant in ("", "disentangled"))
    width = WIDTH.get(name, 1152)
    embedder = FEATURES * width + width + width * width + width
    assert size(controlled) - size(plain) == size(controlled["conditions_controls"]) == embedder
    assert controlled["conditions_label_token"]["table"]["embedding"].shape == (1001, width)


def test_the_entangled_baseline_has_the_label_in_adaln():
    assert "conditions_label" in shapes(config_of("dit", "controls"), depth=2)


@pytest.mark.parametrize("variant", imagenet256_dit.VARIANTS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_values_and_controls_are_known(name, variant):
    config = config_of(name, variant)
    check_keys(config, default_config())
    check_values(config)
    check_controls(config.condition, part("augment", AUGMENTS, config.augment))
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.95)


def test_they_differ_in_the_network_alone():
    base = config_of("dit").to_dict()
    for name in PARAMETERS:
        other = config_of(name).to_dict()
        changed = {key for key in base if base[key] != other[key]}
        assert changed == {"dit": set(), "mdt": {"model", "second_pass"}}.get(name, {"model"})


def test_an_unknown_variant_lists_the_choices():
    with pytest.raises(ValueError, match="variant 'tangled': choose from controls, disentangled, or none"):
        config_of("dit", "tangled")
