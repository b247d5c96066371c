"""Motion drawn on clips for a page."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_fixtures import encode

from emim.data.manifest import ClipEntry
from emim.data.video import open_video
from emim.errors import VideoError
from emim.inference.recogniser import Recogniser
from emim.motion.overlay import Overlay, SubsampledVideo, describe_motion, draw_overlay
from emim.motion.video import FrameMotion


def video_of(overlay: Overlay) -> tuple[int, Fraction, str, tuple[int, int]]:
    """Frames, rate, format of pixels and size of the mp4."""
    with av.open(io.BytesIO(overlay.mp4)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.average_rate is not None
        return len(frames), stream.average_rate, frames[0].format.name, (frames[0].width, frames[0].height)


@pytest.fixture(scope="module")
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


def test_a_short_clip_is_enlarged_and_slowed_down(recogniser: Recogniser, generated: Path) -> None:
    path = next((generated / "test" / "left").glob("*.mp4"))
    with open_video(path) as reader:
        fps = reader.fps
    overlay = draw_overlay(recogniser.model, recogniser.preprocessing, ClipEntry(path, 0))
    frames, rate, pixels, shape = video_of(overlay)
    assert (frames, pixels, shape) == (8, "yuv420p", (560, 210))
    assert (overlay.width, overlay.height) == shape
    assert overlay.slowed == pytest.approx(min(4.0, 1.5 * fps / 8))
    assert float(rate) == pytest.approx(fps / overlay.slowed, rel=1e-3)
    with Image.open(io.BytesIO(overlay.poster)) as poster:
        assert poster.size == shape
    assert overlay.motion


def test_of_a_long_clip_its_own_part_is_drawn_at_a_lower_rate(recogniser: Recogniser, tmp_path: Path) -> None:
    dark_to_bright = np.repeat(np.arange(0, 240, 2, dtype=np.uint8), 48 * 64 * 3).reshape(120, 48, 64, 3)
    path = tmp_path / "long.mp4"
    encode(path, "libx264", images=dark_to_bright)
    with open_video(path) as reader:
        fps = reader.fps
        taken = SubsampledVideo(reader, 40, 120, 36)
        assert taken.num_frames == 27
        assert taken.fps == pytest.approx(fps / 3)
        assert np.array_equal(taken.read([0, 26]), reader.read([40, 118]))
    overlay = draw_overlay(recogniser.model, recogniser.preprocessing, ClipEntry(path, 0, 60, 90, "frame"))
    frames, rate, _, _ = video_of(overlay)
    assert frames == 30
    assert float(rate) == pytest.approx(fps / overlay.slowed, rel=1e-3)
    with Image.open(io.BytesIO(overlay.poster)) as poster:
        # The middle of the part, not of the video: frame 75 is a grey of 150.
        assert abs(np.asarray(poster.convert("L"))[:, :200].mean() - 150) < 12


def test_what_cannot_be_read_is_an_error(recogniser: Recogniser, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        draw_overlay(recogniser.model, recogniser.preprocessing, ClipEntry(tmp_path / "text.mp4", 0))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (5.0, 0.0, "most of what moves goes to the right"),
        (-3.0, 3.0, "most of what moves goes to the lower left"),
        (0.0, -4.0, "most of what moves goes up"),
        (0.05, 0.0, "hardly anything moves"),
    ],
)
def test_motion_in_words(x: float, y: float, words: str) -> None:
    assert describe_motion([moving(x, y)]) == words


def test_opposite_motions_in_words() -> None:
    assert describe_motion([moving(5.0, 0.0), moving(-5.0, 0.0)]) == "places move in different directions"


def test_places_that_are_not_sure_do_not_count() -> None:
    sure, unsure = moving(0.0, 5.0), moving(8.0, 0.0, confidence=0.0)
    assert describe_motion([sure, unsure]) == "most of what moves goes down"


def moving(x: float, y: float, confidence: float = 1.0) -> FrameMotion:
    displacement_2hw = np.broadcast_to(np.array([x, y], dtype=np.float32)[:, None, None], (2, 4, 4))
    return FrameMotion(np.zeros((64, 64, 3), np.uint8), displacement_2hw, np.full((4, 4), confidence, np.float32))
