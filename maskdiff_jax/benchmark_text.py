"""What `benchmark` measured, as tables and as a picture."""

from collections.abc import Mapping, Sequence
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
    if "roofline" in found:
        first, *lines = format_roofline(found["roofline"]["rows"])
        rows += [("roofline", first), *(("", line) for line in lines)]
    for own in (choice for choice in found.get("attention", ()) if choice["seconds"]):
        shape = f"{own['queries']} x {own['keys']} tokens, {own['batch']} x {own['heads']} heads of {own['width']}"
        rows += [("attention", f"{own['name']} for {shape}, {own['dtype']}")]
    if "input" in found:
        rate = found["input"]["images_per_second"]
        rows += [("input", f"{rate:,.4g} images/s alone" if rate else f"not measured: {found['input']['why']}")]
    if "sampling" in found:
        own = found["sampling"]
        rows += [("sampling", f"{own['images_per_second']:,.4g} images/s with {own['steps']} steps")]
    head = f"{title} on {found['devices']} x {found['device']}"
    return "\n".join([head, *(f"  {name:<11}{text}" for name, text in rows)])


def format_roofline(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A head and a line for each part of a step: all its calls, forward and backward."""
    lines = [f"{'part':<14}{'calls':>6}{'time':>10}{'of step':>9}{'FLOP/s':>10}{'GB/s':>8}  bound by    reached"]
    for row in rows:
        line = f"{row['part']:<14}{row.get('calls', ''):>6}{seconds(row['seconds']):>10}{100 * row['of_step']:>7.1f} %"
        if "reached" in row:
            flops, moved = si(row["flops_per_second"]) if row["flops"] else "-", row["bytes_per_second"] / 1e9
            line += f"{flops:>10}{moved:>8.1f}  {row['bound']:<11}{100 * row['reached']:>6.1f} %"
        lines.append(line)
    return lines


def format_sweeps(title: str, found: Mapping[str, Any]) -> str:
    """A table for each sweep: a row for each value with the step, its rate, and time and FLOPs of an image.

    The last two are over those of the first row.
    """
    lines = [f"{title} on {found['devices']} x {found['device']}"]
    for of, rows in found["sweeps"].items():
        lines += [f"{of:>9}{'step':>12}{'images/s':>12}{'MFU':>8}{'temporary':>12}{'time':>8}{'FLOPs':>8}"]
        first = rows[0]
        for row in rows:
            time = first["images_per_second"] / row["images_per_second"]
            work = row["flops_per_image"] / first["flops_per_image"]
            lines.append(
                f"{row[of]:>9g}{seconds(row['seconds']):>12}{row['images_per_second']:>12,.4g}"
                f"{100 * row['mfu']:>6.1f} %{size(row['temporary_bytes']):>12}{time:>8.3f}{work:>8.3f}"
            )
    return "\n".join([*lines, "time and FLOPs: of an image, over those of the first row"])


def picture(title: str, sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Images a second and temporary memory against the value that was swept, a row of two for each sweep, as a PNG."""
    from matplotlib.figure import Figure  # takes a while to import

    figure = Figure(figsize=(9, 0.4 + 3.2 * len(sweeps)), layout="constrained")
    panels = figure.subplots(len(sweeps), 2, squeeze=False)
    for pair, (of, rows) in zip(panels, sweeps.items(), strict=True):
        x = [row[of] for row in rows]
        curves = {
            "images/s": [row["images_per_second"] for row in rows],
            "temporary GiB": [row["temporary_bytes"] / GIB for row in rows],
        }
        for panel, (name, values) in zip(pair, curves.items(), strict=True):
            panel.plot(x, values, "o-", color="#0072B2", linewidth=2)
            panel.set_xlabel("share of tokens hidden" if of == "ratio" else of)
            panel.set_title(name, loc="left", fontsize=10)
            panel.set_ylim(bottom=0)
            panel.grid(color="0.9", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
            if of != "ratio":
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
