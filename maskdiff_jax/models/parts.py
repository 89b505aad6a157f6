"""What a network is made of, seen while it is traced: which layers it calls, on what shapes, and how often."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from maskdiff_jax.models import attention, layers, unet_layers, unet_transformer
from maskdiff_jax.models.conditioning.base import SiluMlp
from maskdiff_jax.models.uvit import Attention as UViTAttention

# The parts by the class of a module, its base classes included; Flax's own come last, for what stands in no other part.
PARTS: Mapping[type[nn.Module], str] = {
    layers.Attention: "attention",
    attention.CrossAttention: "attention",
    attention.RelativeAttention: "attention",
    UViTAttention: "attention",
    unet_layers.AttentionBlock: "attention",
    layers.Mlp: "MLP",
    unet_transformer.GatedMlp: "MLP",
    layers.Modulation: "adaLN",
    layers.ModulatedNorm: "adaLN",
    layers.LevelEmbedding: "conditions",
    SiluMlp: "conditions",
    nn.Embed: "conditions",
    nn.Conv: "convolution",
    nn.Dense: "dense layers",
    nn.LayerNorm: "norms",
    nn.GroupNorm: "norms",
    nn.RMSNorm: "norms",
}
# Dense layers that stand alone in their network, by how their names begin.
DENSE = {"embed": "embedding", "mlp": "MLP", "modulation": "adaLN"}

MARK = "maskdiff_part_"


class Part(NamedTuple):
    """Layers of one kind on one shape: ``count`` calls of ``apply(params, arrays)``.

    ``part`` is a value of `PARTS` or `DENSE`; ``params`` and ``arrays`` are shapes, the latter of the arguments.
    """

    part: str
    count: int
    apply: Callable[[Any, list[jax.Array]], Any]
    params: Any
    arrays: list[jax.ShapeDtypeStruct]


class _Call(NamedTuple):
    part: str
    module: nn.Module
    tree: Any
    leaves: list[Any]  # shapes, and what is no array as it is

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls of the same work have in common."""
        names = [field.name for field in dataclasses.fields(self.module)]
        names = [name for name in names if name not in ("parent", "name") and not name.endswith("_init")]
        options = tuple(repr(getattr(self.module, name)) for name in names)
        return self.part, type(self.module), options, str(self.tree), tuple(map(repr, self.leaves))


def network_parts(function: Callable[..., Any], *args: Any) -> list[Part]:
    """The layers that Linen modules call in ``function(*args)``, which is traced: the arguments may be shapes.

    A layer inside another one that is a part is not counted again, and the body of a scan as often as it runs. A module
    of no Linen class, and arithmetic between modules, is in no part.
    """
    calls: list[_Call] = []
    depth = 0  # of parts

    def watch(call: Any, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
        nonlocal depth
        part = part_of(context.module) if context.method_name == "__call__" else None
        if part is None or depth:
            return call(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        number = len(calls)
        shapes = [jax.typeof(leaf) if _is_array(leaf) else leaf for leaf in leaves]
        shapes = [jax.ShapeDtypeStruct(s.shape, s.dtype) if _is_array(s) else s for s in shapes]
        calls.append(_Call(part, context.module.clone(parent=None, name=None), tree, shapes))
        depth += 1
        try:
            return _marked(call(*args, **kwargs), number)
        finally:
            depth -= 1

    with nn.intercept_methods(watch):
        jaxpr = jax.make_jaxpr(lambda *args: function(*args))(*args)  # a function of its own: jax keeps old traces
    times = _marks(jaxpr.jaxpr)
    kinds: dict[tuple[Any, ...], tuple[_Call, int]] = {}
    for number, call in enumerate(calls):
        before = kinds.get(call.kind, (call, 0))[1]
        kinds[call.kind] = (call, before + times[f"{MARK}{number}"])
    return [_part(call, count) for call, count in kinds.values() if count]


def part_of(module: nn.Module) -> str | None:
    """The part that a module is, None where it is none and the modules inside it may be."""
    name = module.name or ""
    if isinstance(module, nn.Dense):
        return next((part for start, part in DENSE.items() if name.startswith(start)), PARTS[nn.Dense])
    return next((PARTS[kind] for kind in type(module).__mro__ if kind in PARTS), None)


def _part(call: _Call, count: int) -> Part:
    places = [i for i, leaf in enumerate(call.leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def arguments(arrays: list[Any]) -> Any:
        leaves = list(call.leaves)
        for place, array in zip(places, arrays, strict=True):
            leaves[place] = array
        return jax.tree.unflatten(call.tree, leaves)

    def apply(params: Any, arrays: list[jax.Array]) -> Any:
        args, kwargs = arguments(arrays)
        return call.module.apply({"params": params}, *args, **kwargs)

    def init(key: jax.Array, arrays: list[jax.Array]) -> Any:
        args, kwargs = arguments(arrays)
        return call.module.init(key, *args, **kwargs).get("params", {})

    arrays = [call.leaves[place] for place in places]
    return Part(call.part, count, apply, jax.eval_shape(init, jax.random.key(0), arrays), arrays)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _marked(out: Any, number: int) -> Any:
    """The same, with an equation of that number in the jaxpr: an identity of that name."""
    leaves, tree = jax.tree.flatten(out)

    def mark(x: jax.Array) -> jax.Array:
        return x

    mark.__name__ = f"{MARK}{number}"
    return jax.tree.unflatten(tree, [jax.jit(mark)(leaves[0]), *leaves[1:]])


def _marks(jaxpr: Any, times: int = 1) -> Counter[str]:
    """How often each mark is met when a jaxpr runs; of a conditional, all branches count."""
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name = equation.params.get("name", "")
        if isinstance(name, str) and name.startswith(MARK):
            found[name] += times
            continue
        inner = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                item = getattr(item, "jaxpr", item)  # closed -> open
                if hasattr(item, "eqns"):
                    found += _marks(item, inner)
    return found
