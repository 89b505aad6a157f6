"""Numbers as a reader takes them in: few digits, a thin space before the unit, a dash for what there is not."""

import math
from typing import Any

from maskdiff_jax.evaluate.page.read import number

DASH = "–"
THIN = "\N{NARROW NO-BREAK SPACE}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def show(value: Any, digits: int = 3) -> str:
    """A measured value: 0.4539901 is "0.454", 12345.6 "12,346", 1.25e-6 "1.25·10⁻⁶"; null and NaN are a dash."""
    value = number(value)
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", "−")


def measured(value: Any, spread: Any = None) -> str:
    """A value beside its deviation, where it has one, to the deviation's second digit: "0.0101 ± 0.0012"."""
    value, spread = number(value), number(spread)
    if not math.isfinite(spread) or spread <= 0 or not math.isfinite(value):
        return show(value)
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    if decimals > 6:
        return f"{show(value)} ± {show(spread, 2)}"
    return f"{value:,.{decimals}f} ± {spread:,.{decimals}f}".replace("-", "−")


def whole(value: Any) -> str:
    """A count: 76800 is "76,800"."""
    value = number(value)
    return f"{value:,.0f}".replace("-", "−") if math.isfinite(value) else DASH


def amount(value: Any, unit: str = "") -> str:
    """A large number with a prefix: 716000 is "716 k", 3.1e13 FLOP "31 TFLOP"."""
    value = number(value)
    if not math.isfinite(value):
        return DASH
    power = min(6, int(math.log10(abs(value)) / 3)) if abs(value) >= 1000 else 0
    prefix = "kMGTPE"[power - 1] if power else ""
    return f"{value / 1000**power:.3g}" + (f"{THIN}{prefix}{unit}" if prefix + unit else "")


def duration(seconds: Any) -> str:
    """Seconds in words: "1 h 12 min", "2 min 40 s"."""
    seconds = number(seconds)
    if not math.isfinite(seconds):
        return DASH
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (rest, "s")] if minutes else [(rest, "s")]
    return " ".join(f"{part}{THIN}{unit}" for part, unit in parts)


def tick(value: float) -> str:
    """A label of an axis, in few characters: 1200 is "1.2k", 0.00002 "2·10⁻⁵"."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return amount(value).replace(THIN, "").replace("-", "−")
    if abs(value) >= 1e-4:
        text = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.4g}"
        return text.replace("-", "−")
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    mantissa = mantissa.removesuffix(".0")
    front = "" if mantissa == "1" else f"{mantissa}·"
    return f"{front}10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
