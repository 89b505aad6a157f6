"""How a transformer goes through its blocks: what the backward pass keeps of them, and in which loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# What the backward pass keeps of a block beside its input; it computes the rest again. "dots": the products with
# kernels, which have no batch dimensions, but not the logits and weights of attention, which grow as tokens².
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def numbered(name: str, n: int) -> list[str]:
    """The names of ``n`` blocks: name_00, name_01, …"""
    return [f"{name}_{i:02d}" for i in range(n)]


@dataclass(frozen=True)
class Stack:
    """Calls blocks one after the other; the parameters, their names and the arithmetic are the same whatever it does.

    ``remat`` is a name of `REMAT`. With ``scan``, blocks that are alike are traced once, as the body of one `lax.scan`
    over their parameters, stacked at each call: a shorter program, for one more copy of these parameters and of their
    gradient, which are cut apart again. Raises ValueError for an unknown ``remat``.

    On a CPU ``remat`` saves memory inside a ``scan`` alone: XLA recomputes an unrolled network before it has freed
    anything. There a scan shortens tracing, not compiling: each gradient that is cut out is a piece of code of its own.
    """

    remat: str = "none"
    scan: bool = False

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise ValueError(f"remat={self.remat!r}: choose from {', '.join(REMAT)}")

    def __call__(
        self,
        parent: nn.Module,
        block: "partial[Any]",
        names: Sequence[str],
        h: Any,
        *shared: Any,
        each: Any = None,
        keep: bool = False,
    ) -> tuple[Any, Any]:
        """``h`` after the blocks ``names`` of ``parent``, inside its compact method, and what each block returned.

        ``block(name=...)`` makes a module that is called as ``module(h, *shared)`` or, where there is ``each``, as
        ``module(h, *shared, each[i])``, gives the next ``h`` and draws no random numbers. What the blocks returned is
        a sequence with ``keep``, a list or one array, and may be the ``each`` of another call; otherwise it is empty.
        """
        scan = self.scan and len(names) > 1 and not parent.is_initializing()
        if (policy := REMAT[self.remat]) is not None:  # in a scan, no merging of common subexpressions can undo it
            lifted: Any = nn.remat(block.func, policy=policy, prevent_cse=not scan)  # pyright: ignore[reportArgumentType]
            block = partial(lifted, *block.args, **block.keywords)
        if scan:
            trees = [parent.variables["params"][name] for name in names]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

            def body(h: Any, own: Any) -> tuple[Any, Any]:
                params, *rest = own
                h = block(parent=None).apply({"params": params}, h, *shared, *rest)
                return h, h if keep else ()

            rows = () if each is None else (jnp.stack(each) if isinstance(each, list) else each,)
            return jax.lax.scan(body, h, (stacked, *rows))

        kept = []
        for i, name in enumerate(names):
            h = block(name=name)(h, *shared, *(() if each is None else (each[i],)))
            if keep:
                kept.append(h)
        return h, kept
