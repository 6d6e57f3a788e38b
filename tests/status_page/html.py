"""HTML as a reader of it sees it: its elements, its text, its addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

BLOCKS = {"p", "div", "li", "dt", "dd", "th", "td", "h1", "h2", "h3", "summary", "section", "title", "br"}
VOID = {"meta", "link", "img", "br", "input", "hr"}


@dataclass(frozen=True, slots=True)
class Element:
    """One start tag, with its attributes in order."""

    tag: str
    attributes: tuple[tuple[str, str | None], ...]

    def get(self, name: str) -> str | None:
        """The value of an attribute."""
        return dict(self.attributes).get(name)


@dataclass(slots=True)
class Document:
    """Every element and all text, in the order in which they stand."""

    elements: list[Element] = field(default_factory=list)
    text: str = ""
    spaced: str = ""  # The same with a blank where a block begins, as eyes see it.
    unclosed: list[str] = field(default_factory=list)

    def values(self, attribute: str) -> list[str]:
        """What an attribute says, wherever it stands."""
        return [value for element in self.elements if (value := element.get(attribute)) is not None]

    def words(self) -> str:
        """The text with every run of blanks as one."""
        return " ".join(self.spaced.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.document = Document()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.document.elements.append(Element(tag, tuple(attrs)))
        if tag in BLOCKS:
            self.document.spaced += " "
        if tag not in VOID:
            self.document.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.document.elements.append(Element(tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.document.unclosed, f"</{tag}> closes nothing"
        opened = self.document.unclosed.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        self.document.text += data
        self.document.spaced += data


def read_html(html: str) -> Document:
    """A page's elements and text; every element must be closed by its own tag."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.document.unclosed == []
    return reader.document
