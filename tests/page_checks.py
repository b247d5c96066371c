"""What a page must keep to, checked on its HTML: balanced tags, alternative texts, nothing that lies elsewhere."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
LOADS = {"src", "poster", "data", "srcset", "xlink:href", "background", "action", "formaction"}


class PageReader(HTMLParser):
    """Collects what is wrong with a page, and what it holds.

    Attributes:
        problems: in words.
        tags: every element's name, in order.
        headings: level and text of each heading.
        words: the text that a person reads.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.tags: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.words: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._ids: set[str] = set()
        self._targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if len(given) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        for name, value in attrs:
            self._look_at(tag, name, value or "")
        hidden = any(attributes.get("aria-hidden") == "true" for _, attributes in (*self._open, (tag, given)))
        named = given.get("alt") if tag == "img" else given.get("aria-label")
        if tag in ("img", "svg", "video") and not hidden and not (named or "").strip():
            self.problems.append(f"<{tag}> without an alternative text")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag not in VOID:
            self._open.append((tag, given))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            opened = self._open[-1][0] if self._open else "nothing"
            self.problems.append(f"</{tag}> where <{opened}> is open, line {self.getpos()[0]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self._open]
        if "style" in inside:
            self.problems += [f"the style loads {found}" for found in re.findall(r"@import|url\([^)]*\)", data)]
        elif "script" not in inside:
            self.words.append(data)
        if inside and re.fullmatch("h[1-6]", inside[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def close(self) -> None:
        super().close()
        self.problems += [f"<{tag}> is never closed" for tag, _ in self._open]
        self.problems += [f"no element with the id {target!r}" for target in sorted(self._targets - self._ids)]
        levels = [level for level, _ in self.headings]
        if levels[:1] != [1] or levels.count(1) != 1:
            self.problems.append(f"one h1 must come first, got levels {levels}")
        for one, following in itertools.pairwise(levels):
            if following > one + 1:
                self.problems.append(f"h{following} follows h{one}")
        if self.tags.count("table") != self.tags.count("caption"):
            self.problems.append("a table without a caption")

    def _look_at(self, tag: str, name: str, value: str) -> None:
        if name.startswith("on"):
            self.problems.append(f"<{tag}> has the script {name}")
        if name == "id":
            if value in self._ids:
                self.problems.append(f"the id {value!r} twice")
            self._ids.add(value)
        if name == "aria-labelledby":
            self._targets.add(value)
        if name == "href":
            if value.startswith("#"):
                self._targets.add(value[1:])
            else:
                self.problems.append(f"<{tag}> leads to {value}")
        if name in LOADS and not value.startswith("data:"):
            self.problems.append(f"<{tag}> loads {value}")

    @property
    def text(self) -> str:
        """What a person reads, with single spaces."""
        return " ".join(" ".join(self.words).split())


def read_page(html: str) -> PageReader:
    """Read a page to its end."""
    reader = PageReader()
    reader.feed(html)
    reader.close()
    return reader
