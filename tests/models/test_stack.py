"""Rematerialisation and the scan over blocks change neither parameters nor results, only memory and the program.

Every member of MODELS with the options ``remat`` and ``scan`` is enrolled.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.models import MODELS
from maskdiff_jax.models.stack import REMAT
from maskdiff_jax.train.flops import count_flops
from maskdiff_jax.types import Cond
from tests.models.perturb import perturbed

SHAPE = (8, 8, 1)
TINY = {"width": 8, "heads": 2, "patch": 2}
DEPTH: dict[str, dict[str, int]] = {  # two blocks or more of each kind, so that each is scanned
    "mmdit": {"depth": 3},  # the last is of a kind of its own
    "uvit": {"depth": 5},
    "mdt": {"depth": 5, "decoder": 1},
}
KINDS = {"uvit": 2, "mdt": 2}
STACKED = [name for name, make in MODELS.items() if "remat" in inspect.signature(make).parameters]
every = pytest.mark.parametrize("name", STACKED)


def build(name: str, depth: int | None = None, **options: Any) -> Any:
    sizes = DEPTH.get(name, {"depth": 2}) if depth is None else {"depth": depth}
    return MODELS[name](SHAPE, 3, **TINY, **sizes, **options)


def loss(model: Any) -> Any:
    x = jnp.cos(jnp.arange(16 * 64.0)).reshape(16, *SHAPE)
    cond, visible = Cond(label=jnp.arange(16) % 3), jnp.arange(0, 16, 2)[None] + jnp.arange(16)[:, None] % 2

    def value(params: Any) -> Any:
        return jnp.mean(jnp.square(model.apply(params, x, jnp.linspace(0.1, 0.9, 16), cond, visible=visible)[0] - 1))

    return value


def shapes(model: Any) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))


@every
def test_nothing_but_the_program_differs_from_the_plain_loop(name):
    """Results and analytic FLOPs, from the same parameters."""
    models = build(name), build(name, remat="full", scan=True)
    like, (plain, other) = shapes(models[0]), [jax.jit(loss(model)) for model in models]
    scans = [str(run.trace(like).jaxpr).count("= scan[") for run in (plain, other)]
    assert scans == [0, KINDS.get(name, 1)]
    assert count_flops(other, like) == count_flops(plain, like) > 0
    drawn = perturbed(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like), 0.3)
    np.testing.assert_allclose(other(drawn), plain(drawn), rtol=1e-5)


def test_gradients_are_those_of_the_plain_loop_in_less_memory():
    models = build("dit"), build("dit", remat="full", scan=True)
    like, other_like = map(shapes, models)
    assert like == other_like
    plain, other = (jax.jit(jax.grad(loss(model))).lower(like).compile() for model in models)
    assert other.memory_analysis().temp_size_in_bytes < plain.memory_analysis().temp_size_in_bytes
    drawn = perturbed(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like), 0.3)
    wanted, gradient = plain(drawn), other(drawn)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient, wanted)


def test_what_is_not_kept_is_computed_again():
    """Matrix products of the gradient: 'dots' repeats the two of attention, 'full' all seven of the block."""
    like, counts = shapes(build("dit", 1)), []
    for remat in REMAT:
        gradient = jax.jit(jax.grad(loss(build("dit", 1, remat=remat))))
        counts.append(gradient.lower(like).as_text().count("stablehlo.dot_general"))
    assert np.array_equal(np.diff(counts), [2, 5])


def test_the_program_of_a_scan_is_shorter():
    like = shapes(build("dit", 8))
    lengths = [len(jax.jit(loss(build("dit", 8, scan=scan))).lower(like).as_text()) for scan in (True, False)]
    assert lengths[0] < lengths[1] / 2


def test_an_unknown_rematerialisation_lists_the_choices():
    with pytest.raises(ValueError, match="remat='some': choose from none, dots, full"):
        build("dit", remat="some")
