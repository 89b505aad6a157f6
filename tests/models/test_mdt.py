"""What is particular to MDTv2: its sizes, its skips, the tokens that it fills in, and its two passes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.diffusion import prediction, process, times, weighting
from maskdiff_jax.diffusion.objective import make_objective
from maskdiff_jax.masks import dense
from maskdiff_jax.masks import patch as hide
from maskdiff_jax.models.mdt import mdt
from maskdiff_jax.train.flops import count_flops
from maskdiff_jax.types import Batch, Cond, CondShape
from tests.models.perturb import random_params

SHAPE = (4, 6, 1)  # a grid of 2 × 3
SEEN, HIDDEN = np.array([[0, 2, 5], [1, 2, 3]]), np.array([[1, 3, 4], [0, 4, 5]])
X, LEVEL = jax.random.normal(jax.random.key(0), (2, *SHAPE)), jnp.array([0.2, 0.7])
TEXT, WORDS = CondShape(text_length=3, text_width=5), jax.random.normal(jax.random.key(1), (2, 3, 5))
MASK = jnp.array([[True, True, False], [True, False, False]])
TINY = {"width": 16, "depth": 5, "heads": 2, "decoder": 1}


@cache
def network(**options):
    """(apply, params) of a small MDT that reads a text: 4 blocks in the encoder, 1 in the decoder."""
    model = mdt(SHAPE, TEXT, **{**TINY, **options})

    @jax.jit
    def run(params, x, text, visible):
        return model.apply(params, x, LEVEL, Cond(text=text, text_mask=MASK), visible=visible).prediction

    apply = lambda params, x=X, text=WORDS, visible=None: run(params, x, text, visible)  # noqa: E731
    return apply, random_params(model.init, scale=0.2)


def changed(params, changes):
    """``params`` with the leaves at '/'-joined paths replaced."""
    new = jax.tree.map(lambda x: x, params)
    for path, value in changes.items():
        *nodes, leaf = path.split("/")
        node = new
        for name in nodes:
            node = node[name]
        node[leaf] = np.broadcast_to(value, node[leaf].shape).astype(np.float32)
    return new


def still(*blocks):
    """Changes that make these blocks pass on what they get (after the skip)."""
    return {f"{block}/modulation/linear/{leaf}": 0.0 for block in blocks for leaf in ("kernel", "bias")}


INPUT, SKIP = np.eye(32, 16), np.eye(32, 16, k=-16)  # kernels that take the one or the other


def takes(block, kernel):
    return {f"{block}/skip/kernel": kernel, f"{block}/skip/bias": 0.0}


def rows(x, ids):
    return np.stack([image[i] for image, i in zip(np.asarray(x), ids, strict=True)])


def shapes(*args, **options):
    return jax.eval_shape(mdt(*args, **options).init, jax.random.key(0))


def size(params):
    return sum(x.size for x in jax.tree.leaves(params))


def blocks(params, part):
    return sum(name.startswith(part) for name in params)


def test_parameters_of_xl():
    params = shapes((32, 32, 4), 1000, preset="XL", learned_variance=True)
    block, skip, tables, mask_token, positions = 23_905_152, 2 * 1152**2 + 1152, 29 * 31 * 31 * 16, 1152, 256 * 1152
    dit = 675_129_632 - positions  # the published DiT-XL/2
    assert size(params) == 741_672_688 == dit + 16 * skip + block + tables + mask_token
    assert (blocks(params, "encoder"), blocks(params, "decoder"), blocks(params, "side")) == (24, 4, 1)
    # The first version: no skips; without its side block, with 3 more rows a table and two learned positions.
    assert dit + 28 * (31 * 31 + 3) * 16 + 2 * positions + mask_token == 675_857_568


def test_what_the_options_add():
    params = shapes(SHAPE, preset="S")
    assert (blocks(params, "encoder"), blocks(params, "decoder")) == (6, 6)
    del params["mask_token"]
    assert [name for name in params if "skip" in params[name]] == [
        *(f"decoder_{i:02d}" for i in range(6)),
        *(f"encoder_{i:02d}" for i in range(3, 6)),
    ]
    skip, table, total = 2 * 16**2 + 16, 3 * 5 * 2, size(shapes(SHAPE, **TINY))
    assert total - size(shapes(SHAPE, **TINY, relative_positions=False)) == 6 * table
    assert total - size(shapes(SHAPE, **TINY, input_shortcuts=False)) == 1 * skip


def test_parameters_of_a_trained_grid_fit_every_resolution():
    other, own = shapes((8, 8, 1), trained_grid=(2, 3), **TINY), shapes(SHAPE, **TINY)
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, own)


def test_it_answers_for_all_tokens_whatever_their_order():
    apply, params = network()
    dense_answer, answer = apply(params), apply(params, visible=SEEN)
    assert answer.shape == dense_answer.shape == (2, 6, 2, 2, 1)
    np.testing.assert_allclose(apply(params, visible=SEEN[:, ::-1]), answer, atol=1e-5)
    shuffled = np.stack([np.random.default_rng(i).permutation(6) for i in range(2)])
    np.testing.assert_allclose(apply(params, visible=shuffled), dense_answer, atol=1e-5)
    assert np.abs(answer - dense_answer).max() > 1e-2


def test_hidden_patches_enter_by_the_shortcuts_alone():
    image = np.asarray(X).copy()
    image[0, :2, 2:4] = np.nan  # token 1 of the first image
    image[1, 2:, 4:] = np.nan  # token 5 of the second
    apply, params = network(input_shortcuts=False, depth=3)
    np.testing.assert_array_equal(apply(params, image, visible=SEEN), apply(params, visible=SEEN))
    apply, params = network()
    assert np.isnan(apply(params, image, visible=SEEN)).any()


def test_encoder_blocks_cost_what_the_visible_tokens_cost():
    def flops(depth, visible):
        model = mdt((8, 8, 1), width=32, heads=2, depth=depth, decoder=1)
        arguments = (jax.eval_shape(model.init, jax.random.key(0)), jnp.zeros((2, 8, 8, 1)), LEVEL, Cond())
        return count_flops(partial(model.apply, visible=visible), *arguments)

    def encoder(visible):
        return flops(5, visible) - flops(3, visible)

    ids = jnp.tile(jnp.arange(4)[None], (2, 1))  # a quarter of the tokens
    assert 0.15 < encoder(ids) / encoder(None) < 0.35


def test_the_side_interpolater_changes_hidden_places_alone():
    """With a decoder that does not mix tokens, it and its mask token reach the answers at hidden places only."""
    apply, params = network()
    quiet = changed(params, still("decoder_00"))
    base = apply(quiet, visible=SEEN)
    for change in ({"mask_token": 1.0}, {"side/mlp/out/bias": 1.0}, {"side/attention/out/kernel": 0.5}):
        other = apply(changed(quiet, change), visible=SEEN)
        np.testing.assert_array_equal(rows(other, SEEN), rows(base, SEEN))
        assert np.abs(rows(other, HIDDEN) - rows(base, HIDDEN)).min(axis=(0, 2, 3, 4)).max() > 1e-3
        np.testing.assert_array_equal(apply(changed(quiet, change)), apply(quiet))  # not used where all are visible


@pytest.mark.parametrize("source", [0, 1])
def test_the_skips_of_the_encoder_mirror_it(source):
    """Blocks 2 and 3 get what 1 and 0 made: by the skip of 3 - i alone, the output is that of block i."""
    apply, params = network()
    taker, passer = f"encoder_{3 - source:02d}", f"encoder_{2 + source:02d}"
    params = changed(params, {**still("encoder_02", "encoder_03"), **takes(taker, SKIP), **takes(passer, INPUT)})
    base = apply(params)
    moves = {i: np.abs(apply(changed(params, {f"encoder_{i:02d}/mlp/out/bias": 1.0})) - base).max() for i in range(2)}
    assert moves[source] > 1e-2
    if source == 0:
        assert moves[1] == 0


def test_the_shortcuts_of_the_decoder_carry_the_whole_input():
    apply, params = network()
    params = changed(params, still("decoder_00"))
    straight = changed(params, takes("decoder_00", SKIP))
    np.testing.assert_allclose(apply(straight, visible=SEEN), apply(straight), atol=1e-6)
    deaf = changed(params, takes("decoder_00", INPUT))
    assert np.abs(apply(deaf, visible=SEEN) - apply(deaf)).max() > 1e-2


def test_condition_tokens_pass_through_all_blocks_with_their_mask():
    """What fills in leaves them alone: with all tokens visible they reach the decoder as without ids (first test)."""
    apply, params = network()
    base = apply(params, visible=SEEN)
    np.testing.assert_array_equal(apply(params, text=jnp.where(MASK[:, :, None], WORDS, 9.0), visible=SEEN), base)
    moved = apply(params, text=WORDS.at[:, 0].add(1.0), visible=SEEN)
    assert np.abs(moved - base).min(axis=(2, 3, 4)).min() > 1e-5  # every answer, hidden or not


@cache
def two_passes():
    """Gradients of the dense pass alone and of both; losses of either before and after training on both."""
    model = mdt((4, 4, 1), **{**TINY, "depth": 3})
    velocity = prediction.velocity()
    parts = (process.linear_flow(), velocity, weighting.constant("velocity"), times.uniform(), dense())
    objectives = [make_objective(model, *parts, passes=((1.0, seen),)) for seen in (None, hide(0.4))]
    batch = Batch(jnp.tile(jnp.linspace(-1, 1, 16).reshape(1, 4, 4, 1), (8, 1, 1, 1)))

    def total(params, key, weights):
        losses = jnp.stack([objective.loss(params, batch, key)[0] for objective in objectives])
        return weights @ losses, losses

    @jax.jit  # one program for both questions
    def step(params, key, weights):
        """(gradient, losses of the dense and of the masked pass, params after a step of gradient descent)."""
        gradient, losses = jax.grad(total, has_aux=True)(params, key, weights)
        return gradient, losses, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    fixed, seen, both = jax.random.key(0), np.float32([1, 0]), np.float32([1, 1])
    start = params = random_params(model.init)
    for i in range(1, 31):
        params = step(params, jax.random.key(i), both)[2]
    gradients = [step(start, fixed, weights)[0] for weights in (seen, both)]
    return gradients, step(start, fixed, both)[1], step(params, fixed, both)[1]


def test_the_mask_token_gets_its_gradient_from_the_masked_pass():
    (seen, both), _, _ = two_passes()
    for name in ("mask_token", "side"):
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(seen[name]))
    for path, x in jax.tree.leaves_with_path(both):
        assert np.all(np.isfinite(x)) and np.any(np.asarray(x) != 0), jax.tree_util.keystr(path)


def test_training_on_both_passes_lowers_both_losses():
    _, before, after = two_passes()
    assert abs(before[1] / before[0] - 1) > 1e-4  # the masked pass is another one
    assert after[0] < 0.9 * before[0] and after[1] < 0.9 * before[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": 0}, r"mdt: must be positive: decoder=0"),
        ({"decoder": 3}, r"decoder=3 of depth=12 blocks must leave an even number for the encoder, at least 2"),
        ({"decoder": 12}, r"decoder=12 of depth=12 blocks must leave an even number"),
        ({"depth": 4}, r"decoder=6 of depth=4 blocks must leave an even number"),
    ],
)
def test_errors_name_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message) as error:
        mdt((8, 8, 1), **options)
    assert "\n" not in str(error.value)
