"""The vocabulary of the library: array aliases and the NamedTuples that its parts exchange.

Conventions everywhere: images are NHWC float in [-1, 1]; ``t`` is in [0, 1] with **t = 0 data, t = 1 noise**;
``x_t = alpha(t) x + sigma(t) eps``; SNR = alpha² / sigma². ``b`` is the batch, ``n`` the number of tokens of the grid,
``k`` the number of visible (answered) tokens, ``p`` the patch side, ``c`` channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Params = Any  # a pytree of plain dicts of arrays
Shape = tuple[int, ...]


class Coeffs(NamedTuple):
    """alpha, sigma and their derivatives in t, all of the shape of ``t``."""

    alpha: Array
    sigma: Array
    dalpha: Array
    dsigma: Array


class Process(NamedTuple):
    """A Gaussian forward process ``x_t = alpha(t) x + sigma(t) eps``.

    ``alpha`` and ``sigma`` map t to coefficients; ``t_of_log_snr`` inverts log(alpha²/sigma²); ``norm(alpha, sigma)``
    is the homogeneous function that the process keeps at 1 (VP: the hypotenuse, flow: the sum, VE: alpha), which is
    what lets `shift` change the SNR and nothing else. Training draws t inside [t_min, t_max]; samplers never call the
    denoiser below t_min. ``steps`` is the length of the table for discrete processes, else None.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    t_of_log_snr: Callable[[Array], Array]
    norm: Callable[[Array, Array], Array]
    t_min: float
    t_max: float
    steps: int | None = None


# What the network predicts, c_x·x + c_eps·eps: Coeffs -> (c_x, c_eps).
Prediction = Callable[[Coeffs], tuple[Array, Array]]

# What the network is fed, scale·x_t and the noise level: (Process, Coeffs, t) -> (scale, level).
Inputs = Callable[[Process, Coeffs, Array], tuple[Array, Array]]


class Weighting(NamedTuple):
    """A loss weight on the squared error **in a named prediction space**: ``weight(coeffs) -> [b]``."""

    space: Prediction
    weight: Callable[[Coeffs], Array]


class Times(NamedTuple):
    """A sampler of t. ``draw(key, b) -> u[b]`` in [0, 1); ``quantile(process, u) -> (t, weight)``.

    E[weight·f(t)] is the mean of f over the process's training range, unless the recipe is biased on purpose.
    """

    draw: Callable[[Key, int], Array]
    quantile: Callable[[Process, Array], tuple[Array, Array]]


class Tokens(NamedTuple):
    """The token grid of a transformer: ``grid`` (rows, columns) of square patches of side ``patch``.

    ``channels`` (first, stop): those of the image that the tokens hold; None for all.
    """

    grid: tuple[int, int]
    patch: int
    channels: tuple[int, int] | None = None


# One token grid, or several side by side in one transformer (segments): then ids, predictions, targets are tuples too.
Segments = Tokens | tuple[Tokens, ...]


class Visibility(NamedTuple):
    """Which tokens enter the network.

    ``sample(keys[b], grid) -> ids[b, k]``: sorted and distinct per image, k static; one key per image, so that draws do
    not depend on how a batch is cut. ``inclusion(grid) -> [n]``: the true probability that a token is visible.
    ``hides`` is False where every token always is: then a network without tokens will do.
    """

    sample: Callable[[Key, tuple[int, int]], Array]
    inclusion: Callable[[tuple[int, int]], Array]
    hides: bool = True


class Supervision(NamedTuple):
    """Which output elements carry loss. ``shape`` is that of one image's answered units, [k, p, p, c] or [h, w, c].

    ``sample(keys[b], shape) -> mask[b, ...]``, boolean and broadcastable to [b, *shape]; ``inclusion(shape) -> float``,
    the probability that an element is kept; ``normalise(mask, shape) -> [b]``, the factor that turns the masked *sum*
    of squared errors of an image into its loss.
    """

    sample: Callable[[Key, Shape], Array]
    inclusion: Callable[[Shape], float]
    normalise: Callable[[Array, Shape], Array]


class Cond(NamedTuple):
    """What an image is conditioned on; absent parts are None.

    label [b] int32 (null: -1) · text [b, l, d] with text_mask [b, l] bool · pooled [b, d] · controls_high [b, m] ·
    controls_low [b, m] · phase [b] in [0, 1], how far the low-level controls are let in at the present noise level: set
    by the objective and the denoiser (None: fully).
    """

    label: Array | None = None
    text: Array | None = None
    text_mask: Array | None = None
    pooled: Array | None = None
    controls_high: Array | None = None
    controls_low: Array | None = None
    phase: Array | None = None


class CondShape(NamedTuple):
    """The sizes of the conditions that a network is built for; 0 where there is none of a kind.

    classes: of ``label``; text_length and text_width: the l and d of ``text``; pooled_width: the d of ``pooled``;
    controls_high and controls_low: the m of each.
    """

    classes: int = 0
    text_length: int = 0
    text_width: int = 0
    pooled_width: int = 0
    controls_high: int = 0
    controls_low: int = 0


# t [b] -> [b], how far the low-level controls are let in at t: 0 not at all, 1 fully.
Phase = Callable[[Array], Array]


class Batch(NamedTuple):
    """Training data on the device: image [b, h, w, c] float in [-1, 1] and its conditions."""

    image: Array
    cond: Cond = Cond()


def same_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape as it is."""
    return shape


class Codec(NamedTuple):
    """``encode(params, x, key) -> z`` and ``decode(params, z) -> x``; ``shape`` maps (h, w, c) of x to that of z."""

    encode: Callable[[Params, Array, Key], Array]
    decode: Callable[[Params, Array], Array]
    shape: Callable[[tuple[int, int, int]], tuple[int, int, int]] = same_shape


class Output(NamedTuple):
    """What a network returns.

    ``prediction``: [b, k, p, p, c] for a token model, [b, h, w, c] otherwise. ``ids`` [b, k]: the tokens that it
    answers for, None when that is all of them in order. ``variance``: interpolation coefficient in [0, 1] between the
    posterior's two log bounds, in the shape of ``prediction``, or None. ``taps``: named intermediate arrays. With
    several token segments the first three are tuples, one entry each.
    """

    prediction: Array | tuple[Array, ...]
    ids: Array | tuple[Array, ...] | None = None
    variance: Array | tuple[Array, ...] | None = None
    taps: dict[str, Array] = {}  # noqa: RUF012  (never mutated)


class Model(NamedTuple):
    """A network as two pure functions.

    ``init(key) -> params``; ``apply(params, x, level, cond, *, visible=None, train=False, key=None) -> Output`` with x
    [b, h, w, c], level [b] and visible ids [b, k] (with segments a tuple of them) or None for all. ``tokens`` is None
    for a network without tokens.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Output]
    tokens: Segments | None = None


class Denoised(NamedTuple):
    """A denoiser's answer: the estimate of x [b, h, w, c], and the variance coefficient where the network has one."""

    x: Array
    variance: Array | None = None


# All that a sampler may see: (x_t [b, h, w, c], t [b] or scalar, cond) -> Denoised.
Denoiser = Callable[[Array, Array, Cond], Denoised]

# (Process, n) -> t[n + 1], from t_max down to 0, with t[n - 1] >= t_min.
Spacing = Callable[[Process, int], Array]


class Sampler(NamedTuple):
    """One step of a sampler, from t to s < t.

    ``init(x) -> state`` (one-step members: ``()``); ``step(denoiser, state, x, t, s, cond, keys) -> (x, state)`` with
    scalar t and s and one key per image [b].
    """

    init: Callable[[Array], Any]
    step: Callable[..., tuple[Array, Any]]
