# SPDX-License-Identifier: GPL-2.0-only
"""A page as a tree, by a parser that forgives nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_BLOCKS = frozenset({"td", "th", "dt", "dd", "li", "p", "h3", "h4", "h5", "title", "summary"})
_VOID = frozenset({"meta", "input", "wbr", "br", "hr", "img", "link"})


@dataclass
class Node:
    """An element, or the whole page, whose tag is empty."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it, but that of styles and scripts."""
        if self.tag in ("style", "script"):
            return ""
        return "".join(item if isinstance(item, str) else item.text for item in self.children)

    @property
    def words(self) -> str:
        """The text with single spaces, also between what a browser sets apart."""
        return " ".join(self._spaced().split())

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    def _spaced(self) -> str:
        if self.tag in ("style", "script"):
            return ""
        parts = (item if isinstance(item, str) else item._spaced() for item in self.children)
        return f" {''.join(parts)} " if self.tag in _BLOCKS else "".join(parts)

    def __iter__(self) -> Iterator[Node]:
        """All elements in it, in the order of the page."""
        for item in self.children:
            if isinstance(item, Node):
                yield item
                yield from item

    def all(self, tag: str = "", *classes: str, **attributes: str) -> list[Node]:
        """The elements with that tag, these classes and these attributes; "_" stands for "-"."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            node
            for node in self
            if tag in ("", node.tag)
            and node.classes.issuperset(classes)
            and wanted.items() <= node.attributes.items()
        ]

    def one(self, tag: str = "", *classes: str, **attributes: str) -> Node:
        """The only such element."""
        [node] = self.all(tag, *classes, **attributes)
        return node


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> with an attribute twice"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> where <{self.open[-1].tag}> is open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse_page(text: str) -> Node:
    """The tree of a page whose every element is closed where it must be."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    [page] = parser.open
    return page
