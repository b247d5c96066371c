"""The report in a real browser: desktop, dark, a phone, print; with pictures of each."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium, Page

DECODED = "[...document.querySelectorAll('video')].every(video => video.readyState >= 2 && video.videoWidth > 0)"
WIDE_TEXT = """[...document.querySelectorAll('h1,h2,h3,p,li,dd,dt,figcaption,caption')].filter(
    element => !element.closest('.box,pre') && element.getBoundingClientRect().right > window.innerWidth + 1
).map(element => element.textContent.trim().slice(0, 60))"""
# WCAG's contrast of the text of each element against the first opaque ground behind it.
CONTRAST = """(() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parse(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour.startsWith('rgb(')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('p,li,dt,dd,th,caption,figcaption,summary,a,code,.small')) {
    if (!element.checkVisibility()) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push([element.tagName, element.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
})()"""


def opened(chromium: Chromium, page_file: Path, width: int, *, dark: bool = False) -> Page:
    page = chromium.page(width=width, height=800, dark=dark)
    page.open(page_file)
    page.wait_until(DECODED)
    return page


def ground(path: Path) -> tuple[int, ...]:
    with Image.open(path) as picture:
        return picture.convert("RGB").getpixel((3, 3))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("desktop", 1280, False), ("dark", 1280, True), ("phone", 360, False)]
)
def test_it_fits_and_can_be_read(
    chromium: Chromium, report_page: Path, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    page = opened(chromium, report_page, width, dark=dark)
    assert page.problems == []
    assert page.fetched("http", "file") == [report_page.resolve().as_uri()]
    assert page.overflow() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(WIDE_TEXT) == []
    assert page.evaluate(CONTRAST) == []
    assert "Top-1" in page.text("dl.tiles")
    assert page.evaluate("document.querySelectorAll('svg.chart').length") == 4
    assert not page.is_visible(".still")
    if name == "phone":
        # Wide tables scroll within their box, and text is large enough.
        assert page.evaluate("[...document.querySelectorAll('.box')].some(box => box.scrollWidth > box.clientWidth)")
        assert page.evaluate("document.querySelector('.chart text').getBoundingClientRect().height") >= 11
    red, green, blue = ground(page.screenshot(tmp_path / f"{name}.png"))
    assert (max(red, green, blue) < 60) if dark else (min(red, green, blue) > 230)
    page.close()


def test_videos_play_while_they_are_seen_unless_motion_is_not_wanted(chromium: Chromium, report_page: Path) -> None:
    page = opened(chromium, report_page, 1280)
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.muted && video.loop)")
    page.evaluate("document.querySelector('video').scrollIntoView()")
    page.wait_until("!document.querySelector('video').paused && document.querySelector('video').currentTime > 0")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_until("document.querySelector('video').paused")
    page.close()

    calm = chromium.page(width=1280)
    calm.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    calm.open(report_page)
    calm.evaluate("document.querySelector('video').scrollIntoView()")
    # Longer than a seen video takes to start; the still picture stands meanwhile.
    calm.evaluate("new Promise(done => setTimeout(done, 500))")
    assert calm.evaluate(
        "[...document.querySelectorAll('video')].every(video => video.paused && video.currentTime === 0)"
    )
    calm.close()


def test_it_needs_no_script(chromium: Chromium, report_page: Path) -> None:
    page = chromium.page(width=1280)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(report_page)
    page.wait_until(DECODED)
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.controls && video.paused)")
    assert "Does it use motion?" in page.text()
    page.close()


def test_print(chromium: Chromium, report_page: Path, tmp_path: Path) -> None:
    page = opened(chromium, report_page, 700, dark=True)
    page.emulate(media="print", dark=True)
    assert min(ground(page.screenshot(tmp_path / "print.png"))) > 230
    assert not page.is_visible("video")
    assert page.is_visible(".still")
    stills = "[...document.querySelectorAll('.still')]"
    page.wait_until(f"{stills}.every(image => image.complete && image.naturalWidth > 0)")
    assert page.overflow() == 0
    assert page.evaluate(CONTRAST) == []
    pdf = base64.b64decode(page.call("Page.printToPDF", printBackground=True)["data"])
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF-")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page/") + pdf.count(b"/Type /Page ") <= 15
    page.close()
