"""What a notebook shows of a prediction: the playing motion and the classes, in one piece of HTML."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from emim.data.video import open_video
from emim.errors import ConfigError
from emim.inference.recogniser import Recogniser
from emim.models import create_model
from emim.motion import motion_field, show


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser.load(device="cpu")


@pytest.fixture(scope="module")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").iterdir())


class Tags(HTMLParser):
    """Collects the attributes of tags; an end without its start is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str | None]] = {}
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] = dict(attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_plays_the_motion_and_needs_nothing_else(recogniser: Recogniser, clip: Path) -> None:
    shown = show(recogniser, clip)
    page = shown._repr_html_()
    video = Tags(page).found["video"]
    assert {"autoplay", "loop", "muted", "playsinline", "aria-label"} <= set(video)
    kind, content = str(video["src"]).split(",", 1)
    assert kind == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(content))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert (len(frames), frames[0].shape[1]) == (8, int(str(video["width"])))
    assert len(page) < 500_000
    assert not re.search(r"https?://", page)
    for item in shown.predictions:
        assert f">{item.label}<" in page
        assert f">{item.score:.1%}<" in page
    assert shown.predictions == recogniser.predict(clip, topk=3)


def test_a_terminal_gets_the_classes_and_the_motion_in_words(recogniser: Recogniser, clip: Path) -> None:
    lines = repr(show(recogniser, clip, topk=2)).splitlines()
    assert lines[0] == str(clip)
    assert len(lines) == 4
    assert lines[3].startswith("  motion: ")


def test_names_cannot_bring_html_into_the_page(recogniser: Recogniser, clip: Path, tmp_path: Path) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    odd.write_bytes(clip.read_bytes())
    assert "img" not in Tags(show(recogniser, odd)._repr_html_()).found


def test_long_and_noisy_videos_stay_small(recogniser: Recogniser) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 96, 128, 3), dtype=np.uint8)
    shown = show(recogniser, noise, fps=100, start=0.5)
    assert shown.overlay is not None
    assert len(shown.overlay.mp4) <= 2 << 20
    with av.open(io.BytesIO(shown.overlay.mp4)) as container:
        assert 30 <= sum(1 for _ in container.decode(video=0)) <= 60
    assert min(shown.predictions.views[0].frames) >= 50


def test_a_network_without_emim_shows_its_classes(recogniser: Recogniser, clip: Path) -> None:
    plain = Recogniser(create_model("uniformer_tiny", len(recogniser.classes)), recogniser.card, device="cpu")
    shown = show(plain, clip)
    assert shown.overlay is None
    assert "no EMIM block" in repr(shown)
    assert "video" not in Tags(shown._repr_html_()).found
    with pytest.raises(ConfigError, match="fps=25 is for frames"):
        show(plain, clip, fps=25)


def test_the_field_of_a_clip_by_the_documented_call(recogniser: Recogniser, clip: Path) -> None:
    with open_video(clip) as reader:
        views_VCTHW = recogniser.read(reader).views_VCTHW
    fields = motion_field(recogniser.model, views_VCTHW.float() / 255)
    assert list(fields) == ["blocks3.0.attn", "blocks4.0.attn"]
    V, _, T, H, W = views_VCTHW.shape
    field = fields["blocks3.0.attn"]
    assert field.displacement_BT2HW.shape == (V, T, 2, H // 8, W // 8)
    assert field.confidence_BTHW.shape == (V, T, H // 8, W // 8)
