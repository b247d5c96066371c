"""The checks of pages find what they are for."""

from __future__ import annotations

import pytest

from page_checks import read_page

GOOD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><style>p { color: red }</style></head><body><h1>a</h1>'
    '<a href="#b">to b</a><h2 id="b">b</h2><img alt="c" src="data:image/png;base64,AA"></body></html>'
)


def test_a_good_page() -> None:
    page = read_page(GOOD)
    assert page.problems == []
    assert page.headings == [(1, "a"), (2, "b")]
    assert page.text == "a to b b"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('alt="c" ', "", "<img> without an alternative text"),
        ("data:image/png;base64,AA", "https://x.test/a.png", "<img> loads https://x.test/a.png"),
        ("color: red", "background: url(a.png)", "the style loads url(a.png)"),
        ("</h2>", "", "</body> where <h2> is open, line 1"),
        ("</html>", "", "<html> is never closed"),
        ("#b", "#c", "no element with the id 'c'"),
        ("h2", "h3", "h3 follows h1"),
        ("<h1>a</h1>", "", "one h1 must come first, got levels [2]"),
        ("<img", "<table></table><img", "a table without a caption"),
        ("<img", '<svg viewBox="0 0 1 1"></svg><img', "<svg> without an alternative text"),
        ("<img", '<img onerror="x()"', "<img> has the script onerror"),
        ("#b", "http://x.test", "<a> leads to http://x.test"),
        ("<body>", '<body id="b">', "the id 'b' twice"),
    ],
)
def test_what_is_wrong_is_found(old: str, new: str, problem: str) -> None:
    assert problem in read_page(GOOD.replace(old, new)).problems
