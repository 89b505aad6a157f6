"""Implementations of attention, and which of them a shape gets.

All compute softmax(query·keyᵀ/√d + bias)·value for each head, the softmax in float32, and differ by rounding. "auto" is
the written-out form on a CPU and for float32; on a GPU the faster of it and cuDNN's kernel, measured once in a process
for each shape; on a TPU, and where several processes must compile the same program without talking, a tiled kernel from
`LONG` keys on. Measured choices may differ between two runs: name one where they must be equal in every bit.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LONG = 1024  # keys; the logits, as many for each query and head, are then most of what is read and written
MARGIN = 0.95  # a kernel must take less than this part of the time of the written-out form
ROUNDS, CALLS = 5, 4  # of a measurement
TILE = 128  # the smallest block of tokens of the TPU kernel

Query = Float[Array, "b heads q d"]
Key = Float[Array, "b heads k d"]
Mask = Bool[Array, "b k"]
Bias = Float[Array, "#b heads q k"]


class Case(NamedTuple):
    """What a choice depends on. ``batch`` is that of one of the ``devices`` among which the compiler divides the whole.

    ``devices`` is 1 inside `jax.shard_map`, too.
    """

    platform: str
    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    dtype: str
    masked: bool = False
    bias: tuple[int, ...] | None = None
    devices: int = 1
    processes: int = 1


class Choice(NamedTuple):
    """An implementation, and the seconds of forward and gradient of those that were measured and ran."""

    name: str
    seconds: Mapping[str, float] = {}


class Kernel(NamedTuple):
    """``attend(query, key, value, mask, bias)``, the platform that has it (None: all) and the cases that it takes."""

    attend: Callable[..., Array]
    platform: str | None = None
    takes: Callable[[Case], bool] = lambda case: True


def attend(
    query: Query, key: Key, value: Key, mask: Mask | None = None, bias: Bias | None = None, kernel: str = "auto"
) -> Query:
    """The attended values. ``mask`` is False at keys that nobody attends to; ``bias`` is added to the logits.

    Where ``mask`` is False at all keys of an image its result is finite and depends on the ``kernel``, a name of
    `KERNELS` or "auto". A named one is taken where the platform has it, and may refuse the shape; elsewhere "xla" is.
    """
    if _plain.get():
        name = "xla"
    elif kernel == "auto":
        name = choose(case_of(query, key, mask, bias)).name
    else:
        name = kernel if KERNELS[kernel].platform in (None, jax.default_backend()) else "xla"
    return KERNELS[name].attend(query, key, value, mask, bias)


def check_kernel(kernel: str, dtype: str, width: int) -> None:
    """Raise ValueError unless ``kernel`` is "auto" or in `KERNELS` and takes heads of that dtype and width."""
    if kernel != "auto" and kernel not in KERNELS:
        raise ValueError(f"attention={kernel!r}: choose from {', '.join(['auto', *KERNELS])}")
    if kernel == "cudnn" and (dtype == "float32" or width % 8):
        raise ValueError(
            f"attention='cudnn' takes dtype='bfloat16' and heads of a multiple of 8 channels, got {dtype} and {width}"
        )


def written_out(query: Query, key: Key, value: Key, mask: Mask | None, bias: Bias | None) -> Query:
    """Logits, softmax and average as three operations that XLA compiles."""
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


def cudnn(query: Query, key: Key, value: Key, mask: Mask | None, bias: Bias | None) -> Query:
    """cuDNN's fused kernel, which takes even numbers of tokens and rounds a bias to the dtype of the queries."""
    count = query.shape[2]
    query, key, value, mask, bias = _padded(2, query, key, value, mask, bias)
    (b, _, q, _), k = query.shape, key.shape[2]
    seen = None if mask is None else jnp.broadcast_to(mask[:, None, None, :], (b, 1, q, k))
    bias = None if bias is None else bias.astype(query.dtype)
    rows = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    out = jax.nn.dot_product_attention(*rows, bias=bias, mask=seen, implementation="cudnn")
    return jnp.swapaxes(out, 1, 2)[:, :, :count]


def flash(query: Query, key: Key, value: Key, mask: Mask | None, bias: Bias | None) -> Query:
    """JAX's own TPU kernel (Pallas), on multiples of `TILE` tokens."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu  # for those who have one

    count = query.shape[2]
    query, key, value, mask, bias = _padded(TILE, query, key, value, mask, bias)
    (b, heads, q, d), k = query.shape, key.shape[2]
    # keys of another segment than the queries' are not attended to
    segments = None if mask is None else tpu.SegmentIds(jnp.ones((b, q), jnp.int32), mask.astype(jnp.int32))
    bias = None if bias is None else jnp.broadcast_to(bias, (b, heads, q, k))
    rows, columns = (next(n for n in (512, 256, TILE) if tokens % n == 0) for tokens in (q, k))
    blocks = tpu.BlockSizes(rows, columns, columns, 1, rows, columns, columns, rows, columns, columns, rows)
    return tpu.flash_attention(query, key, value, bias, segments, sm_scale=d**-0.5, block_sizes=blocks)[:, :, :count]


def _padded(
    multiple: int, query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """A multiple of so many queries and keys; new keys are masked."""
    (b, _, q, _), k = query.shape, key.shape[2]
    rows, columns = (0, -q % multiple), (0, -k % multiple)
    whole = (0, 0)
    if columns[1]:
        mask = jnp.pad(jnp.ones((b, k), bool) if mask is None else mask, (whole, columns))
    if bias is not None:
        bias = jnp.pad(bias, (whole, whole, rows, columns))
    key, value = (jnp.pad(x, (whole, whole, columns, whole)) for x in (key, value))
    return jnp.pad(query, (whole, whole, rows, whole)), key, value, mask, bias


def _half(case: Case) -> bool:
    return case.dtype != "float32" and case.width % 8 == 0


def _tiled(case: Case) -> bool:
    """The compiler does not divide a Pallas kernel among devices, and padding must not be most of the work."""
    fits = case.width <= 128 or case.width % 128 == 0
    return fits and case.devices == 1 and min(case.queries, case.keys) >= TILE


KERNELS = {"xla": Kernel(written_out), "cudnn": Kernel(cudnn, "gpu", _half), "flash": Kernel(flash, "tpu", _tiled)}


def case_of(query: Query, key: Key, mask: Mask | None, bias: Bias | None) -> Case:
    """The case of these arrays, or tracers, here and now."""
    inside = bool(jax.sharding.get_abstract_mesh().manual_axes)
    devices = 1 if inside else jax.device_count()
    b, heads, queries, width = query.shape
    return Case(
        platform=jax.default_backend(),
        batch=max(1, b // devices),
        heads=heads,
        queries=queries,
        keys=key.shape[2],
        width=width,
        dtype=query.dtype.name,
        masked=mask is not None,
        bias=None if bias is None else bias.shape,
        devices=devices,
        processes=jax.process_count(),
    )


_choices: dict[Case, Choice] = {}
_plain: ContextVar[bool] = ContextVar("plain", default=False)


def choices() -> dict[Case, Choice]:
    """What "auto" has chosen in this process so far."""
    return dict(_choices)


def choose(case: Case) -> Choice:
    """What "auto" takes: measured on a GPU by a single process, the first time that it is asked; see the module."""
    if case not in _choices:
        able = [name for name, kernel in KERNELS.items() if kernel.platform in (None, case.platform)]
        able = [name for name in able if KERNELS[name].takes(case)]
        if len(able) > 1 and case.platform == "gpu" and case.processes == 1:
            # a thread of its own has no trace, no mesh and no manual axes around it
            with ThreadPoolExecutor(1) as pool:
                seconds = pool.submit(measure, {name: KERNELS[name].attend for name in able}, case).result()
            usual = MARGIN * seconds.get("xla", float("inf"))
            best = min(seconds, key=seconds.__getitem__, default="xla")
            _choices[case] = Choice(best if seconds and seconds[best] < usual else "xla", seconds)
        else:
            _choices[case] = Choice(able[-1] if case.keys >= LONG else "xla")
    return _choices[case]


def measure(candidates: Mapping[str, Callable[..., Array]], case: Case) -> dict[str, float]:
    """Seconds of the forward pass with the gradient, the median of alternating rounds, of each that raises nothing."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (case.batch, case.heads, case.queries, case.width)
    query, key, value = (
        jax.random.normal(seed, (*shape[:2], n, case.width), case.dtype)
        for seed, n in zip(keys, (case.queries, case.keys, case.keys), strict=False)
    )
    mask = jnp.ones((case.batch, case.keys), bool) if case.masked else None
    bias = None if case.bias is None else jax.random.normal(keys[3], (min(case.bias[0], case.batch), *case.bias[1:]))
    args = (query, key, value, bias)

    def gradient(attend: Callable[..., Array]) -> Callable[..., Any]:
        def loss(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
            return jnp.sum(jnp.square(attend(query, key, value, mask, bias).astype(jnp.float32)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2) if bias is None else (0, 1, 2, 3)))

    ready, spent = {}, {}
    for name, attend in candidates.items():
        try:
            run = gradient(attend)
            jax.block_until_ready(run(*args))
            ready[name], spent[name] = run, []
        except Exception:  # a kernel refuses what it does not take, or its memory, in many ways
            continue
    for _ in range(ROUNDS):
        for name, run in ready.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                out = run(*args)
            jax.block_until_ready(out)
            spent[name].append((time.perf_counter() - start) / CALLS)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


@contextmanager
def plain() -> Iterator[None]:
    """What is traced inside takes the written-out form: its operations can be counted, those of a kernel cannot."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
