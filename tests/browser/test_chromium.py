"""The browser that pages are tested in does what its helper says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium, PageError

PAGE = """<!doctype html><html lang="en"><title>t</title><style>
body { margin: 0; background: #fff } @media (prefers-color-scheme: dark) { body { background: #000 } }
p.hidden { display: none }</style>
<p id="said">shown <b>words</b></p><p class="hidden">not seen</p>
<input type="file"><button>add</button>
<script>
document.querySelector("button").onclick = () => {
  const file = document.querySelector("input").files[0];
  setTimeout(() => { document.body.insertAdjacentHTML("beforeend", `<p class="late">${file.name}</p>`) }, 100);
};
</script>"""


def test_a_page_is_opened_used_and_pictured(chromium: Chromium, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_text(PAGE, encoding="utf-8")
    page = chromium.page(width=360, height=300, dark=True)
    page.open(place)
    assert page.text("#said") == "shown words"
    assert page.is_visible("#said")
    assert not page.is_visible(".hidden")
    assert not page.is_visible(".late")
    page.upload("input", place)
    page.click("button")
    page.wait_for(".late")
    assert page.texts(".late") == ["page.html"]
    with Image.open(page.screenshot(tmp_path / "dark.png")) as picture:
        assert picture.width == 360
        assert picture.convert("RGB").getpixel((350, 290)) == (0, 0, 0)
    page.emulate(dark=False)
    page.resize(500)
    with Image.open(page.screenshot(tmp_path / "light.png")) as picture:
        assert picture.width == 500
        assert picture.convert("RGB").getpixel((490, 290)) == (255, 255, 255)
    assert page.overflow() == 0
    assert page.problems == []
    assert page.fetched("http") == []
    page.close()


def test_what_goes_wrong_in_a_page_is_told(chromium: Chromium, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_text(
        "<!doctype html><img src='nowhere.png'><script>missing.call()</script><p style='width: 900px'>wide"
    )
    page = chromium.page(width=400)
    page.open(place)
    page.wait_until("document.images[0].complete")
    assert any("missing is not defined" in problem for problem in page.problems)
    assert any(address.endswith("/nowhere.png") for address in page.fetched("file:"))
    assert page.overflow() > 400
    with pytest.raises(PageError, match="nothing_here"):
        page.evaluate("nothing_here")
    with pytest.raises(PageError, match="not true within 0 s"):
        page.wait_until("false", seconds=0)
    page.close()
