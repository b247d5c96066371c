"""The page of `emim serve` in a real browser: upload, result, error, camera, narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium, Page
from serving import Served

PLAYS = "document.querySelector('#motion').currentTime > 0 && !document.querySelector('#motion').paused"
RESULT_SECONDS = 90.0


@pytest.fixture
def page(chromium: Chromium, served: Served) -> Iterator[Page]:
    page = chromium.page()
    page.open(served.address)
    page.wait_until("document.querySelector('#limits').innerText")
    yield page
    page.close()


@pytest.fixture(scope="session")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").glob("*.mp4"))


def colour_at_edge(picture: Path) -> int:
    """Brightness of the page's own paper, from 0 to 255."""
    with Image.open(picture) as image:
        return int(image.convert("L").getpixel((2, image.height - 2)))  # type: ignore[arg-type]


def test_a_video_gets_bars_motion_and_an_explanation(page: Page, served: Served, clip: Path, tmp_path: Path) -> None:
    assert page.text("#limits") == "At most 2 MB and 5 seconds."
    page.upload("#file", clip)
    page.wait_for("#result", RESULT_SECONDS)
    expected = served.predict(clip).json["predictions"]
    assert page.texts("#scores .label") == [item["label"] for item in expected]
    assert page.texts("#scores .score") == [f"{100 * item['score']:.1f}%" for item in expected]
    widths = page.evaluate(
        "[...document.querySelectorAll('#scores .bar span')].map(bar => parseFloat(bar.style.width))"
    )
    assert widths == pytest.approx([100 * item["score"] for item in expected], abs=0.1)
    assert page.text("#result-title").startswith(f"{clip.name}: {expected[0]['label']}, ")
    page.wait_until(PLAYS, RESULT_SECONDS)  # pictures come after the classes
    assert not page.is_visible("#working")
    assert page.evaluate("document.querySelector('#explanation').decode().then(() => true)")
    assert page.evaluate("document.querySelector('#explanation').alt").startswith(expected[0]["label"])
    assert page.problems == []
    elsewhere = [address for address in page.requested if not address.startswith((served.address, "data:"))]
    assert elsewhere == []  # `data:` are the browser's own buttons

    assert colour_at_edge(page.screenshot(tmp_path / "light.png")) > 230
    page.emulate(dark=True)
    assert colour_at_edge(page.screenshot(tmp_path / "dark.png")) < 40
    page.resize(360)
    assert page.overflow() == 0
    assert page.is_visible("#scores .bar")
    with Image.open(page.screenshot(tmp_path / "narrow.png")) as picture:
        assert picture.width == 360


def test_errors_are_said_and_the_next_video_works(page: Page, clip: Path, tmp_path: Path) -> None:
    page.resize(360)
    name = f"long <b>marks {'x' * 80}.mp4"
    broken = tmp_path / name
    broken.write_bytes(clip.read_bytes()[:700])
    page.upload("#file", broken)
    page.wait_for("#error")
    assert page.text("#error").startswith(f"{name}: ends ")
    assert page.overflow() == 0

    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(3 << 20))
    page.upload("#file", large)
    page.wait_until("document.querySelector('#error').innerText.includes('larger than the 2 MB')")

    page.upload("#file", clip)
    page.wait_for("#result", RESULT_SECONDS)
    assert not page.is_visible("#error")


def test_a_dropped_file_is_taken(page: Page) -> None:
    page.evaluate(
        """(() => {
          const data = new DataTransfer();
          data.items.add(new File(["no video"], "dropped.mp4"));
          document.querySelector("#drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        })()"""
    )
    page.wait_for("#error")
    assert page.text("#error").startswith("dropped.mp4: is not a video")


def test_a_recording_of_the_camera_is_predicted(page: Page) -> None:
    page.click("#camera")
    page.wait_for("#record")
    page.wait_until("document.querySelector('#viewfinder').videoWidth > 0")
    page.click("#record")
    page.wait_for("#result", RESULT_SECONDS)
    assert page.text("#result-title").startswith("camera.webm: ")
    assert not page.is_visible("#recording")
    page.wait_until(PLAYS, RESULT_SECONDS)
    assert page.problems == []


def test_cancelling_keeps_what_there_is_and_frees_the_server(page: Page, served: Served, real_clips: Path) -> None:
    page.upload("#file", real_clips / "intel" / "walk.mkv")
    page.wait_for("#result", RESULT_SECONDS)
    page.wait_until("document.querySelector('#stage').innerText.startsWith('Drawing')")
    page.click("#cancel")
    assert page.is_visible("#scores")
    assert not page.is_visible("#working")
    assert not page.is_visible("#motion")
    assert served.wait_until_idle()["queue"]["active"] == 0
    assert served.left_over() == []


def test_it_can_be_used_with_the_keyboard(page: Page) -> None:
    reached: list[str] = []
    for _ in range(3):
        page.press("Tab", 9)
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["SUMMARY", "file", "camera"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter", 13, "\r")
    page.wait_for("#record")
    assert page.evaluate("document.activeElement.id") == "record"
