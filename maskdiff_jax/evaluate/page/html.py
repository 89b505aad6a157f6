"""Elements of an HTML document, of which every text is escaped."""

import html
from collections.abc import Container, Iterable, Sequence
from typing import Any

from maskdiff_jax.evaluate.page.style import STYLE

VOID = ("meta", "link", "img", "br")


class Markup(str):
    """A text that is HTML; any other text is escaped where it enters an element."""


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """``<tag attributes>children</tag>``. An attribute's trailing underscore is dropped (``class_``), others become
    hyphens; one of None is left out.
    """
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    start = "".join(f' {name}="{html.escape(str(value))}"' for name, value in given.items())
    return Markup(f"<{tag}{start}>" + ("" if tag in VOID else f"{join(children)}</{tag}>"))


def join(children: Iterable[Any], between: str = "") -> Markup:
    """Children one after the other."""
    return Markup(between.join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children))


def figure(content: Markup, title: str, sentence: str, kind: str = "") -> Markup:
    """A chart or picture with its caption: what it is, and what it shows and what good looks like."""
    caption = element("figcaption", element("strong", title), " ", sentence)
    return element("figure", content, caption, class_=kind or None)


def figures(*found: Markup | str, kind: str = "figures") -> Markup:
    """Figures side by side where there is room; empty where there are none."""
    kept = [figure for figure in found if figure]
    return element("div", *kept, class_=kind) if kept else Markup()


def table(
    header: Sequence[Any], rows: Sequence[Sequence[Any]], texts: Container[int] = (0,), label: str = ""
) -> Markup:
    """A table in a box of its own, which scrolls. The columns ``texts`` are texts, the others numbers."""

    def line(tag: str, cells: Sequence[Any]) -> Markup:
        return element("tr", *(element(tag, c, class_="n" if i not in texts else None) for i, c in enumerate(cells)))

    body = element("tbody", *(line("td", row) for row in rows))
    head = element("thead", line("th", header)) if header else ""
    return scrolling(element("table", head, body), label)


def scrolling(content: Markup, label: str) -> Markup:
    """A box that scrolls what is too wide for it; it takes the focus, so that the arrow keys do it."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def note(text: str) -> Markup:
    return element("p", text, class_="quiet")


def document(title: str, *body: Markup) -> str:
    """The whole document; a policy in it forbids every request and every script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, "\n", element("body", *body), lang="en") + "\n"
