"""Patches, gather and scatter are inverses; fixed positions know displacement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.tokens import gather, patchify, scatter, sincos_2d, unpatchify

IMAGES = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
IDS = jnp.array([[0, 3, 5], [1, 2, 4]])


@pytest.mark.parametrize("patch", [1, 2])
def test_patchify_counts_row_by_row_and_unpatchify_inverts_it(patch):
    tokens = patchify(IMAGES, patch)
    rows, columns = 4 // patch, 6 // patch
    assert tokens.shape == (2, rows * columns, patch, patch, 3)
    for i in range(rows * columns):
        y, x = i // columns * patch, i % columns * patch
        np.testing.assert_array_equal(tokens[:, i], IMAGES[:, y : y + patch, x : x + patch])
    np.testing.assert_array_equal(unpatchify(tokens, (rows, columns)), IMAGES)


def test_a_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="4×6 does not divide into patches of 4"):
        patchify(IMAGES, 4)


def test_gather_takes_each_image_s_own_tokens():
    tokens = patchify(IMAGES, 2)
    taken = gather(tokens, IDS)
    for b, k in np.ndindex(2, 3):
        np.testing.assert_array_equal(taken[b, k], tokens[b, IDS[b, k]])
    np.testing.assert_array_equal(gather(tokens[..., 0, 0, 0], IDS), taken[..., 0, 0, 0])


@pytest.mark.parametrize("fill", [0.0, -7.0])
def test_scatter_puts_tokens_back_and_fills_the_rest(fill):
    tokens = patchify(IMAGES, 2)
    back = scatter(gather(tokens, IDS), IDS, 6, fill)
    named = np.zeros((2, 6), bool)
    np.put_along_axis(named, np.asarray(IDS), True, axis=1)
    np.testing.assert_array_equal(back, np.where(named[:, :, None, None, None], tokens, fill))
    np.testing.assert_array_equal(gather(back, IDS), gather(tokens, IDS))


def test_scatter_is_the_adjoint_of_gather():
    tokens = patchify(IMAGES, 2)
    (adjoint,) = jax.vjp(lambda x: gather(x, IDS), tokens)[1](gather(tokens, IDS))
    np.testing.assert_array_equal(adjoint, scatter(gather(tokens, IDS), IDS, 6))


def test_positions_are_distinct_of_equal_norm_and_know_displacement_only():
    width, (rows, columns) = 16, (3, 5)
    table = sincos_2d(width, (rows, columns))
    assert table.shape == (15, width) and table.dtype == np.float32
    np.testing.assert_allclose(np.sum(table**2, axis=1), width / 2, rtol=1e-6)
    products = (table @ table.T).reshape(rows, columns, rows, columns)
    np.testing.assert_allclose(products[1, 1, 2, 4], products[0, 0, 1, 3], rtol=1e-5)
    np.testing.assert_allclose(products[2, 3, 0, 3], products[2, 0, 0, 0], rtol=1e-5)
    assert np.sum(products.reshape(15, 15) > width / 2 - 1e-3) == 15


def test_positions_are_column_first_as_sine_then_cosine():
    table = sincos_2d(8, (2, 3), period=100.0).reshape(2, 3, 4, 2)  # [row, column, (sin, cos, sin, cos), frequency]
    y, x = np.indices((2, 3))
    rates = np.array([1.0, 0.1])
    for part, (f, axis) in enumerate([(np.sin, x), (np.cos, x), (np.sin, y), (np.cos, y)]):
        np.testing.assert_allclose(table[:, :, part], f(axis[..., None] * rates), rtol=1e-6, atol=1e-7)


def test_a_width_that_does_not_split_in_four_is_refused():
    with pytest.raises(ValueError, match="divisible by 4, got 10"):
        sincos_2d(10, (2, 2))
