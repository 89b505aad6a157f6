"""Reading a page back: an HTML document whose every tag must be closed."""

from html.parser import HTMLParser
from typing import NamedTuple

VOID = ("meta", "link", "img", "br")


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str]
    section: str  # the id of the section around it


class Document(HTMLParser):
    """The tags of a document in their order, and its texts by section. Raises AssertionError where it is not sound."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[Tag] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        if tag in ("section", "footer", "header"):
            self._section = attributes.get("id", tag)
        self.tags.append(Tag(tag, attributes, self._section))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> after {self._open}"
        self._open.pop()

    def handle_data(self, data):
        within = self._open[-1] if self._open else ""
        if within not in ("style", "title"):
            self.texts[self._section] = self.texts.get(self._section, "") + data + "\n"

    def all(self, *names: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name in names]
