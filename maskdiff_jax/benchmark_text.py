"""What `benchmark` measured, as tables and as a picture."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

GIB = 2**30


def format_parts(title: str, found: Mapping[str, Any]) -> str:
    """A line for each figure of the parts that were measured."""
    rows: list[tuple[str, str]] = []
    if "ceilings" in found:
        own = found["ceilings"]
        products = [f"{si(own[f'matmul_{dtype}_flops'])}FLOP/s in {dtype}" for dtype in ("float32", "bfloat16")]
        rows += [("ceiling", f"{', '.join(products)}; copying {own['copy_bytes'] / 1e9:.1f} GB/s")]
    if "step" in found:
        own = found["step"]
        peak = "" if own["peak_bytes"] is None else f", at most {own['peak_bytes'] / GIB:.2f} GiB in use"
        spread = f"{seconds(own['fastest'])} to {seconds(own['slowest'])}"
        rows += [
            ("compiling", f"{own['compile_seconds']:.1f} s"),
            ("step", f"{seconds(own['seconds'])} ({spread}), {own['images_per_second']:,.4g} images/s"),
            ("arithmetic", f"{si(own['flops_per_second'])}FLOP/s, MFU {100 * own['mfu']:.1f} %"),
            ("memory", f"state {size(own['state_bytes'])}, temporary {size(own['temporary_bytes'])}{peak}"),
        ]
    if "input" in found:
        rate = found["input"]["images_per_second"]
        rows += [("input", f"{rate:,.4g} images/s alone" if rate else f"not measured: {found['input']['why']}")]
    if "sampling" in found:
        own = found["sampling"]
        rows += [("sampling", f"{own['images_per_second']:,.4g} images/s with {own['steps']} steps")]
    head = f"{title} on {found['devices']} x {found['device']}"
    return "\n".join([head, *(f"  {name:<11}{text}" for name, text in rows)])


def format_sweep(title: str, found: Mapping[str, Any]) -> str:
    """A row for each value: the step, its rate, and the time and FLOPs of an image over those of the first row."""
    of, rows = found["sweep"]["of"], found["sweep"]["rows"]
    lines = [f"{title} on {found['devices']} x {found['device']}"]
    lines += [f"{of:>9}{'step':>12}{'images/s':>12}{'MFU':>8}{'temporary':>12}{'time':>8}{'FLOPs':>8}"]
    first = rows[0]
    for row in rows:
        time = first["images_per_second"] / row["images_per_second"]
        work = row["flops_per_image"] / first["flops_per_image"]
        lines.append(
            f"{row[of]:>9g}{seconds(row['seconds']):>12}{row['images_per_second']:>12,.4g}{100 * row['mfu']:>6.1f} %"
            f"{size(row['temporary_bytes']):>12}{time:>8.3f}{work:>8.3f}"
        )
    return "\n".join([*lines, "time and FLOPs: of an image, over those of the first row"])


def picture(title: str, sweep: Mapping[str, Any]) -> bytes:
    """Images a second and temporary memory against the value that was swept, as a PNG."""
    from matplotlib.figure import Figure  # takes a while to import

    of, rows = sweep["of"], sweep["rows"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    x = [row[of] for row in rows]
    rates, memory = ([row[key] for row in rows] for key in ("images_per_second", "temporary_bytes"))
    for panel, values, name in zip(
        panels, (rates, [m / GIB for m in memory]), ("images/s", "temporary GiB"), strict=True
    ):
        panel.plot(x, values, "o-", color="#0072B2", linewidth=2)
        panel.set_xlabel("share of tokens hidden" if of == "ratio" else of)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.grid(color="0.9", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    if of != "ratio":
        for panel in panels:
            panel.set_xscale("log", base=2)
            panel.set_xticks(x, [f"{value:g}" for value in x])
            panel.minorticks_off()
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def size(value: float) -> str:
    return f"{value / GIB:.2f} GiB" if value >= GIB / 10 else f"{value / 2**20:.1f} MiB"


def si(value: float) -> str:
    """1.2e12 -> "1.2 T"."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "
