"""Pictures of a run, inside the document: sample grids, masks, nearest neighbours."""

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from maskdiff_jax.evaluate.page.html import Markup, element, figure, figures, join, note, scrolling
from maskdiff_jax.evaluate.page.numerals import whole
from maskdiff_jax.evaluate.page.read import Run
from maskdiff_jax.evaluate.page.settings import worded

GRIDS = 8  # sample grids at most
NAMING = ("step", "sampler", "steps", "guidance")  # settings by which an evaluation is called
MASKS = re.compile(r"samples/masks_?(\w*)\.png")
NEIGHBOURS = 4  # pictures of evaluations at most
LARGE = 400_000  # bytes from which a picture is made smaller
SIDE = 1200  # pixels of its longer side then
LOOK = "Good ones look like the data, varied and sharp; from grid to grid they should settle."


def picture(path: Path, alt: str) -> Markup:
    """An ``<img>`` that carries the file itself, or a smaller JPEG of a large one; "" where it is no picture."""
    data, kind = path.read_bytes(), "png"
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if len(data) > LARGE:
                data, kind = _smaller(image), "jpeg"
    except OSError:
        return Markup()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return element("img", src=source, alt=alt, width=size[0], height=size[1])


def _smaller(image: Image.Image) -> bytes:
    small, buffer = image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "jpeg", quality=88)
    return buffer.getvalue()


def samples(run: Run) -> Markup:
    """The newest grid, large, and some of those before it."""
    last, final = max(run.grids, default=0), run.pictures.get("samples/final.png")
    named = {f"Step {whole(step)}": run.grids[step] for step in spread(list(run.grids), GRIDS - bool(final))}
    if final:
        lead = _picture(final, "Final samples", LOOK)
    elif named:
        title, path = f"Step {whole(last)}", named.pop(f"Step {whole(last)}")
        lead = _picture(path, title, LOOK)
    else:
        return Markup()
    earlier = [_picture(path, title, "") for title, path in named.items()]
    return element("div", lead, figures(*earlier, kind="strip"), class_="progress")


def spread(steps: list[int], most: int) -> list[int]:
    """At most ``most`` of the steps: the first, the last, and between them more early ones, where much changes."""
    if len(steps) <= most:
        return steps
    places = np.geomspace(1, len(steps), most).round().astype(int) - 1
    for i in range(1, most):  # early ones fall together
        places[i] = max(places[i], places[i - 1] + 1)
    return [steps[i] for i in places]


def masks(run: Run) -> Markup:
    """What training hides; each stage has a picture of its own."""
    sentence = (
        "From above: images of the data, what the network sees of them, what carries loss; all of it has no row. "
        "The shares should be those of the configuration."
    )
    found = {match[1]: path for name, path in run.pictures.items() if (match := MASKS.fullmatch(name))}
    drawn = [
        _picture(path, f"Stage {stage}" if stage else "Masks", sentence, wide=True) for stage, path in found.items()
    ]
    return figures(*drawn, kind="lead")


def neighbours(run: Run) -> Markup:
    """Samples and the training images nearest to them."""
    sentence = "Samples, with each its nearest training image: alike in kind is good, equal pairs are copies."
    named = {"samples/nearest.png": "Final samples"}
    for e in reversed(run.evaluations):
        told = [f"{name} {worded(e.settings[name])}" for name in NAMING if name in e.settings]
        named.setdefault(f"evaluations/{e.name}/nearest.png", ", ".join(told).capitalize() or e.name)
    found = [(run.pictures[place], title) for place, title in named.items() if place in run.pictures]
    drawn = figures(*(_picture(path, title, sentence, wide=True) for path, title in found[:NEIGHBOURS]), kind="lead")
    left = len(found) - NEIGHBOURS
    return join([drawn, note(f"{left} more of older evaluations are in their folders.")]) if left > 0 else drawn


def _picture(path: Path, title: str, sentence: str, wide: bool = False) -> Markup:
    drawn = picture(path, f"{title}. {sentence}".strip())
    return figure(scrolling(drawn, title) if wide else drawn, title, sentence) if drawn else drawn
