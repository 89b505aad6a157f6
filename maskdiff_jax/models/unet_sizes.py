"""The published U-Nets as presets, and what a U-Net checks about its sizes."""

from typing import Any, NamedTuple

# By the shorter side. 64 and more: ADM's. 32: Debias's (Yu et al. 2024). Below: the same, down to 4 pixels or 7; ours.
MULTIPLIERS = {
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
    28: (1, 2, 2),
    16: (1, 2, 2),
    8: (1, 2),
}


def _at_16(sides: list[int]) -> tuple[int, ...]:
    return tuple(side for side in sides if side == 16)


def _below_full_resolution(sides: list[int]) -> tuple[int, ...]:
    return tuple(sides[1:])


# `attention` chooses among the sides of the levels; `multipliers` of None are those of `MULTIPLIERS`.
PRESETS: dict[str, dict[str, Any]] = {
    "adm": {
        "base": 128,
        "multipliers": None,
        "blocks": 1,
        "attention": _at_16,
        "head_channels": 64,
        "transformer_depth": 0,
        "scale_shift": True,
        "resample_in_blocks": True,
        "label": "label",
    },
    "ldm": {
        "base": 192,
        "multipliers": (1, 2, 3, 5),
        "blocks": 2,
        "attention": _below_full_resolution,
        "head_channels": 0,
        "transformer_depth": 1,
        "scale_shift": False,
        "resample_in_blocks": False,
        "label": "label_token",
    },
}


class Sizes(NamedTuple):
    """Options of `unet` for one image; ``attention`` says for each level whether its blocks attend.

    ``label`` is the member of `CONDITIONINGS` that a label uses by default.
    """

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    head_channels: int
    transformer_depth: int
    scale_shift: bool
    resample_in_blocks: bool
    label: str


def unet_sizes(h: int, w: int, groups: int, preset: str, **asked: Any) -> Sizes:
    """The sizes of ``preset`` for an image of ``h``×``w``, those that are asked for (not None) in their place.

    Raises ValueError where one is out of range or does not divide what it must.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: choose from {', '.join(PRESETS)}")
    size = PRESETS[preset] | {name: value for name, value in asked.items() if value is not None}
    side = min(h, w)
    if size["multipliers"] is None and side not in MULTIPLIERS:
        known = ", ".join(map(str, MULTIPLIERS))
        raise ValueError(f"unet: give multipliers for an image of {h}×{w}; there are defaults for sides of {known}")
    steps = MULTIPLIERS[side] if size["multipliers"] is None else tuple(size["multipliers"])
    if not steps or min(steps) < 1:
        raise ValueError(f"multipliers={steps}: one whole number of at least 1 for each level")
    base, head_channels = size["base"], size["head_channels"]
    _check_least(1, base=base, blocks=size["blocks"], groups=groups)
    _check_least(0, head_channels=head_channels, transformer_depth=size["transformer_depth"])

    shrink = 2 ** (len(steps) - 1)
    if h % shrink or w % shrink:
        raise ValueError(f"multipliers={steps}: {len(steps)} levels need sides divisible by {shrink}, not {h}×{w}")
    sides = [side // 2**i for i in range(len(steps))]
    attended = size["attention"](sides) if asked.get("attention") is None else tuple(size["attention"])
    if unknown := [s for s in attended if s not in sides]:
        raise ValueError(f"attention={unknown[0]}: choose from the sides of the levels, {', '.join(map(str, sides))}")
    if base % groups or base % 2:
        raise ValueError(f"base={base} must be even and divisible by groups={groups}")
    with_attention = [base * m for m, s in zip(steps, sides, strict=True) if s in attended] + [base * steps[-1]]
    if odd := [width for width in with_attention if head_channels and width % head_channels]:
        raise ValueError(f"head_channels={head_channels} does not divide the {odd[0]} channels of an attention block")
    return Sizes(**{**size, "multipliers": steps, "attention": tuple(s in attended for s in sides)})


def _check_least(least: int, **counts: int) -> None:
    if small := [f"{name}={value}" for name, value in counts.items() if value < least]:
        raise ValueError(f"unet: must be at least {least}: {', '.join(small)}")
