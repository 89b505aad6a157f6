"""What a traced network is made of: its layers account for its FLOPs, and loops for how often each is called."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from maskdiff_jax.models import MODELS, layers
from maskdiff_jax.models.parts import network_parts
from maskdiff_jax.train.flops import count_flops
from maskdiff_jax.types import Cond
from tests.models.test_contract import CLASSES, OPTIONS, SHAPE

B = 2


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def joint_attention(tokens: int, options: dict[str, int]) -> int:
    """FLOPs of two products in every block: of the tokens and the label, in the last one of the tokens, with all."""
    queries = (options["depth"] - 1) * (tokens + 1) + tokens
    return 2 * 2 * B * queries * (tokens + 1) * options["width"]


@pytest.mark.parametrize("name", MODELS)
def test_parts_account_for_all_flops(name):
    """But for the attention of MM-DiT, which stands in no module of its own."""
    model = MODELS[name](SHAPE, CLASSES, **OPTIONS.get(name, {}))
    given = (array(B, *SHAPE), array(B), Cond(label=array(B, dtype=jnp.int32)))
    params = jax.eval_shape(model.init, jax.random.key(0))
    parts = network_parts(model.apply, params, *given)
    found = sum(part.count * count_flops(part.apply, part.params, part.arrays) for part in parts)
    tokens = SHAPE[0] * SHAPE[1] // 4
    outside = joint_attention(tokens, OPTIONS[name]) if name == "mmdit" else 0
    assert found + outside == count_flops(model.apply, params, *given) > 0
    kinds = {part.part for part in parts}
    assert {"attention", "MLP", "embedding"} <= kinds or name in ("unet", "mmdit")
    leaves = jax.tree.leaves(params)
    held = sum(leaf.size for part in parts for leaf in part.count * jax.tree.leaves(part.params))
    assert 0.7 * sum(leaf.size for leaf in leaves) < held  # of the parameters; a layer called twice counts twice


def test_calls_are_counted_as_they_run():
    """Of alike layers together, in a scan by its length, under remat once; another shape is another kind."""
    mlp, x = layers.Mlp(8), array(2, 3, 4)

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = nn.remat(layers.Mlp)(8, name=f"mlp_{i}")(x)
            return nn.Dense(4, name="embed")(x[:1])

    two = Two()
    params, both = (jax.eval_shape(module.init, jax.random.key(0), x) for module in (mlp, two))

    def function(params, both, x):
        x, _ = lax.scan(lambda x, _: (mlp.apply(params, x), None), x, length=5)
        return two.apply(both, x), mlp.apply(params, x[:1])

    parts = network_parts(function, params, both, x)
    assert sorted((part.part, part.count, part.arrays[0].shape) for part in parts) == [
        ("MLP", 1, (1, 3, 4)),
        ("MLP", 7, (2, 3, 4)),
        ("embedding", 1, (1, 3, 4)),
    ]
    whole = count_flops(function, params, both, x)
    assert whole == sum(part.count * count_flops(part.apply, part.params, part.arrays) for part in parts)


def test_a_part_is_called_alone():
    """With its own parameters, and what is no array as it was given."""
    module, x, mask = layers.Attention(2), array(2, 3, 8), array(2, 3, dtype=bool)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    for given in ((x, None), (x, mask)):
        (part,) = network_parts(module.apply, variables, *given)
        assert part.params == variables["params"] and part.arrays == [array for array in given if array is not None]
        assert str(jax.make_jaxpr(part.apply)(part.params, part.arrays)) == str(
            jax.make_jaxpr(module.apply)(variables, *given)
        )
