"""What every transformer checks about its sizes."""

from collections.abc import Mapping
from typing import Any

from maskdiff_jax.types import CondShape, Tokens


def cond_shape(classes: int | CondShape) -> CondShape:
    """A number of classes as the shape of conditions with a label alone; a shape as it is."""
    return CondShape(classes=classes) if isinstance(classes, int) else classes


def preset_sizes(name: str, presets: Mapping[str, Mapping[str, int]], preset: str, **asked: Any) -> dict[str, int]:
    """The entries of ``preset``, those that are asked for in their place, all of them positive.

    Raises ValueError for an unknown preset, listing the choices, and for values that are not positive. What is asked
    for and is no entry of a preset (a patch, a ratio) is checked and left out.
    """
    if preset not in presets:
        raise ValueError(f"preset={preset!r}: choose from {', '.join(presets)}")
    given = {key: value for key, value in asked.items() if value is not None}
    if small := [f"{key}={value}" for key, value in given.items() if value <= 0]:
        raise ValueError(f"{name}: must be positive: {', '.join(small)}")
    return {key: int(given.get(key, value)) for key, value in presets[preset].items()}


def token_grid(image_shape: tuple[int, int, int], patch: int) -> Tokens:
    """The grid of patches of an image (h, w, c). Raises ValueError where the patch does not divide it."""
    h, w, _ = image_shape
    if h % patch or w % patch:
        raise ValueError(f"patch={patch} does not divide an image of {h}×{w}")
    return Tokens((h // patch, w // patch), patch)


def check_heads(width: int, heads: int, multiple: int = 1) -> None:
    """Raise ValueError unless ``heads`` and ``multiple`` divide the width."""
    if width % heads or width % multiple:
        raise ValueError(f"width={width} must be divisible by heads={heads}" + f" and by {multiple}" * (multiple > 1))
