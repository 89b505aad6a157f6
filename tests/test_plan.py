"""A plan states what the run then is: the bytes of its state, the shapes of its data, its FLOPs; and it refuses."""

from contextlib import redirect_stdout
from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.build import build
from maskdiff_jax.data import DataError, feed
from maskdiff_jax.models import MODELS
from maskdiff_jax.parts import ConfigError
from maskdiff_jax.plan import check_fit, count_work, estimate, nbytes, plan, shape_only, step_arrays
from maskdiff_jax.train.optim import adamw, constant, make_optimizer
from maskdiff_jax.train.parallel import batch_sharding, make_mesh
from maskdiff_jax.train.state import abstract_state, init_state
from tests.test_build import tiny

LATENTS = {"name": "maskdiff_jax.plan:shape_only", "height": 8, "width": 8, "channels": 4, "classes": 5}


@pytest.fixture(scope="module")
def experiment():
    return build(tiny(ema=(0.9, 0.99), visibility={"name": "patch", "ratio": 0.5}))


@pytest.fixture(scope="module")
def printed():
    return StringIO()


@pytest.fixture(scope="module")
def found(experiment, printed):
    """The plan on eight devices of 1 GiB."""
    with redirect_stdout(printed):
        return plan(experiment.config, devices=8, memory=1.0)[0]


def test_state_bytes_are_those_of_a_live_state_and_of_the_compiler(found, experiment):
    size = found["bytes_per_device"]
    state = init_state(experiment.model, experiment.optimizer, jax.random.key(0), make_mesh())
    live = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert size["state"] == live == size["parameters"] + size["optimizer"] + size["averages"]
    assert size["parameters"] == 4 * found["parameters"] and size["averages"] == 2 * size["parameters"]
    compiled = found["compiler"]["arguments"] - size["batch"] - size["data"]
    assert compiled == pytest.approx(size["state"], rel=0.01)


def test_a_model_cut_over_eight_devices_has_an_eighth_on_each():
    """DiT-XL/2 with its moments and average, by shapes alone."""
    model = MODELS["dit"]((32, 32, 4), 1000, preset="XL", patch=2)
    state = abstract_state(model, make_optimizer(adamw(), constant(10, 1e-4)), make_mesh(fsdp=0))
    for part in (state.params, state.opt_state, state):
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))
        assert nbytes(part) == pytest.approx(whole / 8, rel=0.05)
    assert nbytes(state) > 1e9


def test_the_compiler_gives_cut_parameters_an_eighth_of_each_device():
    with redirect_stdout(StringIO()):
        (cut,) = plan(tiny(model__width=128, parallel__fsdp=0), devices=8)
    size = cut["bytes_per_device"]
    assert size["state"] < 0.2 * 16 * cut["parameters"]  # of 4 float32: parameters, two moments, an average
    compiled = cut["compiler"]["arguments"] - size["batch"] - size["data"]
    assert compiled == pytest.approx(size["state"], rel=0.01)


def test_data_and_temporaries(found, experiment):
    size = found["bytes_per_device"]
    raw, table = step_arrays(experiment, make_mesh(jax.devices()[:1]))
    assert nbytes(raw) == 8 * size["batch"] == 8 * 4  # eight images, resident: their indices
    assert nbytes(table) == size["data"] == 1500 * (8 * 8 + 4)  # uint8 pixels and an int32 label
    assert size["temporary"] == found["compiler"]["temporary"] > 0
    assert size["total"] == size["state"] + size["data"] + size["batch"] + size["temporary"]
    assert found["compiler"]["backend"] == "cpu"


def test_flops_and_tokens(found, experiment):
    flops, config = found["flops"], experiment.config
    assert found["tokens"] == {"total": 4, "visible": 2}
    assert flops["training_run"] == config.steps * flops["training_step"]
    assert flops["training_step"] == config.batch * flops["training_image"]
    dense = count_work(build(tiny()))
    assert dense["sampling_image"] == config.sample.steps * dense["training_image"] // 3 == flops["sampling_image"]
    assert dense["training_image"] > 1.3 * flops["training_image"]


@pytest.mark.parametrize("resident", [True, False])
def test_it_plans_for_the_arrays_that_the_data_pipeline_delivers(resident):
    experiment, mesh = build(tiny(augment={"name": "standard"}, resident=resident)), make_mesh()
    data = feed(
        experiment.dataset.train, 8, 0, experiment.augment, sharding=batch_sharding(mesh), resident=resident, prefetch=0
    )
    about = lambda tree: jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype), x.sharding.spec), tree)  # noqa: E731
    assert about(step_arrays(experiment, mesh)) == about((next(data.batches), data.table))


def test_it_refuses_what_is_known_not_to_fit_and_says_by_how_much(found, printed):
    table = printed.getvalue()
    assert "each of 8 x cpu" in table and "by the cpu compiler" in table and "of 1.00 GiB" in table
    assert found["memory"] == 2**30
    needs = found["bytes_per_device"]["total"]
    for enough in (needs, None):
        check_fit(found | {"memory": enough})
    with pytest.raises(ConfigError, match=r"^does not fit: .* and there are 0\.25 MiB: .* MiB too much$") as error:
        check_fit(found | {"memory": 2**18})
    assert float(str(error.value).split()[-4]) == pytest.approx(needs / 2**20 - 0.25, abs=0.01)


def test_a_described_data_set_has_no_images():
    dataset = shape_only(**{key: value for key, value in LATENTS.items() if key != "name"}, images=1000)
    assert (dataset.shape, dataset.classes, len(dataset.train)) == ((8, 8, 4), 5, 1000)
    assert build(tiny(data=LATENTS)).dataset.shape == (8, 8, 4)
    with pytest.raises(DataError, match="without images"):
        dataset.train.fetch(np.arange(2))


def test_bad_devices_and_memory():
    with pytest.raises(ConfigError, match="--devices=9: jax has started with 8"):
        plan(tiny(), devices=9)
    with pytest.raises(ConfigError, match=r"--memory=-1: the GiB of a device"):
        plan(tiny(), memory=-1)
    with pytest.raises(ConfigError, match=r"config\.batch: a global batch of 8 does not divide evenly .* on 3 devices"):
        estimate(build(tiny()), jax.devices()[:3])
