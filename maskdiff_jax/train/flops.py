"""Analytic floating-point operations of a function: matrix products and convolutions of its jaxpr.

Element-wise work is left out (one or two per cent of a network). The compiler's own cost analysis does not replace this
count: it takes the body of a scan once and counts rematerialised work again.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from maskdiff_jax.models.kernels import plain


def count_flops(function: Callable, *args: Any) -> int:
    """FLOPs of ``function(*args)``; the arguments may be `jax.ShapeDtypeStruct`, nothing is computed.

    A multiplication and an addition are 2. A scan counts its length times, a conditional its dearest branch, a
    shard_map all its shards, and a while loop, whose trips are unknown, its body once. Convolution taps that fall on
    padding or on the zeros of a dilated input are not counted, as in the compiler's cost analysis. Hand-written kernels
    (Pallas, cuDNN) are not understood; attention is counted as it is written out.
    """
    with plain():
        return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def training_flops(forward: Callable, *args: Any) -> int:
    """FLOPs of a training step by the usual rule, 3 × forward: the backward pass costs two products for each one."""
    return 3 * count_flops(forward, *args)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "shard_map":  # its jaxpr has the shapes of one shard
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]) * sum(inner)
    return sum(inner)


def _convolution(equation: Any) -> int:
    """2 × batch × output channels × input channels per group × (output position, kernel tap) pairs on real input."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    image, kernel = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    # the three specs list axes as (batch, channel, *space) and, of the kernel, (output, input channel, *space)
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    pairs = 1
    for i, (image_axis, kernel_axis, out_axis) in enumerate(axes):
        windows = params["window_strides"][i] * np.arange(out[out_axis]) - params["padding"][i][0]
        at = windows[:, None] + params["rhs_dilation"][i] * np.arange(kernel[kernel_axis])[None]
        hole = params["lhs_dilation"][i]
        pairs *= int(np.sum((at >= 0) & (at <= (image[image_axis] - 1) * hole) & (at % hole == 0)))
    return 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]] * pairs


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters: bodies of jit, remat, scan, while, custom rules, branches of cond."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # closed -> open
            if hasattr(item, "eqns"):
                yield item
