"""What is particular to PixArt-α: its sizes, its cross-attention, its shared modulation and its start."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.models.pixart import pixart
from maskdiff_jax.tokens import patchify, scatter, unpatchify
from maskdiff_jax.types import Cond, CondShape
from tests.models.perturb import perturbed, random_params

TINY = {"width": 16, "depth": 2, "heads": 2}
TEXT = CondShape(text_length=4, text_width=5)
X, LEVEL = jax.random.normal(jax.random.key(0), (2, 4, 6, 1)), jnp.array([0.2, 0.7])
WORDS = jax.random.normal(jax.random.key(1), (2, 4, 5))
MASK = jnp.array([[True, True, True, False], [True, False, True, False]])


@cache
def network():
    """(apply, fresh parameters) of a small PixArt with text."""
    model = pixart((4, 6, 1), TEXT, **TINY, conditioning={"text": {}})
    apply = jax.jit(lambda params, cond, x=X: model.apply(params, x, LEVEL, cond).prediction)
    return apply, jax.device_get(jax.jit(model.init)(jax.random.key(0)))


def answer(params, text=WORDS, mask=MASK, x=X):
    return np.asarray(network()[0](params, Cond(text=text, text_mask=mask), x))


def shapes(*args, **options):
    return jax.eval_shape(pixart(*args, **options).init, jax.random.key(0))


def size(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_parameter_count_of_xl():
    """The published code has 610,856,096, with an MLP from text of 4096 to the width in the place of the labels."""
    total = size(shapes((32, 32, 4), 1000, preset="XL", learned_variance=True))
    labels, text = 1001 * 1152, (4096 + 1) * 1152 + (1152 + 1) * 1152
    assert total == 605_961_248
    assert total - labels + text == 610_856_096


def test_parameters_of_cross_attention():
    with_label, without = (size(shapes((8, 8, 1), classes, **TINY)) for classes in (3, 0))
    assert with_label - without == 4 * 16 + 2 * 4 * (16 + 1) * 16  # the table of labels, and query, key, value and out


def test_without_tokens_there_is_no_cross_attention():
    def crossed(*args, **options):
        return {name for name, block in shapes(*args, **TINY, **options).items() if "cross_attention" in block}

    blocks = {"block_00", "block_01"}
    assert crossed((8, 8, 1), 3) == crossed((8, 8, 1), TEXT, conditioning={"text": {}}) == blocks
    assert crossed((8, 8, 1)) == crossed((8, 8, 1), 3, conditioning={"label": {}}) == set()


def test_masked_words_do_not_matter_and_words_have_no_order():
    params = perturbed(network()[1], 0.2)
    base = answer(params)
    np.testing.assert_array_equal(answer(params, text=jnp.where(MASK[:, :, None], WORDS, 9.0)), base)
    order = jnp.array([2, 3, 0, 1])
    np.testing.assert_allclose(answer(params, WORDS[:, order], MASK[:, order]), base, atol=1e-5)
    assert np.abs(answer(params, text=WORDS.at[:, 0].add(1.0)) - base).max(axis=(1, 2, 3, 4)).min() > 1e-3
    assert np.abs(answer(params, mask=MASK.at[:, 0].set(False)) - base).max(axis=(1, 2, 3, 4)).min() > 1e-3


def test_cross_attention_starts_silent():
    """A fresh network is 0 by its last layer; with that layer alone moved it reads the image and not yet the text."""
    fresh = network()[1]
    moved = {**fresh, "final": perturbed(fresh["final"])}
    assert np.all(answer(fresh) == 0) and np.abs(answer(moved)).min(axis=(2, 3, 4)).min() > 0
    np.testing.assert_array_equal(answer(moved, text=WORDS + 1.0), answer(moved))
    neighbour = np.abs(answer(moved, x=X.at[:, :2, :2].add(1.0)) - answer(moved))[:, 5]
    assert neighbour.max() > 1e-5  # the gates of self-attention do not start at 0


def test_initialisation_follows_the_published_code():
    params = network()[1]
    tables = np.concatenate([np.ravel(params[name]["offsets"]["table"]) for name in ("block_00", "block_01", "final")])
    np.testing.assert_allclose(tables.std(), 1 / np.sqrt(16), rtol=0.15)  # of 224 numbers
    np.testing.assert_allclose(np.std(params["modulation"]["kernel"]), 0.02, rtol=0.05)
    for zeros in (
        params["modulation"]["bias"],
        params["block_00"]["cross_attention"]["out"],
        params["final"]["linear"],
    ):
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(zeros))


def test_one_modulation_is_shared_by_all_blocks():
    """What is added to its bias might as well be added to the table of every block."""
    params = perturbed(network()[1], 0.2)
    delta = np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
    shared, own = (jax.tree.map(lambda x: x, params) for _ in range(2))
    shared["modulation"]["bias"] = shared["modulation"]["bias"] + delta.ravel()
    for name in ("block_00", "block_01"):
        own[name]["offsets"]["table"] = own[name]["offsets"]["table"] + delta
    np.testing.assert_allclose(answer(shared), answer(own), atol=1e-4)
    assert np.abs(answer(shared) - answer(params)).max() > 1e-2


def test_with_several_tokens_every_parameter_gets_a_gradient():
    """Attention to one token is constant: there the query of cross-attention gets none."""
    apply, fresh = network()
    loss = lambda p: jnp.mean(jnp.square(apply(p, Cond(text=WORDS, text_mask=MASK)) - 1))  # noqa: E731
    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(perturbed(fresh, 0.2))):
        assert np.all(np.isfinite(gradient)) and np.any(np.asarray(gradient) != 0), jax.tree_util.keystr(path)


def test_positions_are_interpolated_into_the_trained_grid():
    """A 2 × 3 grid in a trained one of 6 × 9: token (i, j) stands where (3i + 1, 3j + 1) stood."""
    large = pixart((12, 18, 1), width=16, depth=1, heads=2)
    small = pixart((4, 6, 1), width=16, depth=1, heads=2, trained_grid=(6, 9))
    params = random_params(small.init, 0.2)
    ids = jnp.tile(jnp.array([[9 * row + column for row in (1, 4) for column in (1, 4, 7)]]), (2, 1))
    image = unpatchify(scatter(patchify(X, 2), ids, 54), (6, 9))
    expected = jax.jit(large.apply)(params, image, LEVEL, Cond(), visible=ids).prediction
    np.testing.assert_allclose(jax.jit(small.apply)(params, X, LEVEL, Cond()).prediction, expected, atol=1e-5)
