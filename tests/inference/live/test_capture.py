"""Reading live sources: real time, loss and return of a real network source, decoding that is too slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emim.data.preprocessing import Preprocessing
from emim.errors import NotAVideoError, SourceError, VideoError
from emim.inference.live.capture import Backoff, Capture
from emim.inference.live.clip import ClipShape, FrameRing, LiveFrame
from emim.inference.live.connection import parse_source
from live_sources import FPS, BreakingRtspServer, BreakingServer, transport_stream, write_video, write_with_b_frames

SHAPE = ClipShape(Preprocessing(num_frames=4, size=32), span=0.4)


class Recorder(FrameRing):
    """A ring that remembers all frames and when each came."""

    def __init__(self) -> None:
        super().__init__(8, 0.01)
        self.came: list[tuple[float, LiveFrame]] = []

    def put(self, frame: LiveFrame) -> None:
        self.came.append((time.monotonic(), frame))
        super().put(frame)


def capture(source: str, *, timeout: float = 10.0, retries: int = 0) -> tuple[Capture, Recorder]:
    """Read a source to its end."""
    ring = Recorder()
    reading = Capture(parse_source(source), SHAPE, ring, timeout=timeout, retries=retries, backoff=Backoff(0.05, 0.1))
    reading.start()
    deadline = time.monotonic() + 40
    while not ring.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    reading.stop()
    assert ring.closed
    return reading, ring


@pytest.mark.parametrize("write", [write_video, write_with_b_frames])
def test_a_file_is_played_in_real_time(tmp_path: Path, write: Callable[[Path, float], Path]) -> None:
    reading, ring = capture(str(write(tmp_path / "clip.mp4", 0.8)))
    assert reading.error is None
    frames = [frame for _, frame in ring.came]
    assert [frame.time for frame in frames] == pytest.approx([number / FPS for number in range(20)])
    assert [frame.captured - frames[0].captured for frame in frames] == pytest.approx(
        [number / FPS for number in range(20)]
    )
    assert all(came >= frame.captured for came, frame in ring.came)
    assert {frame.run for frame in frames} == {1}
    assert {tuple(frame.pixels_CHW.shape) for frame in frames} == {(3, 32, 32)}
    assert list(reading.notices) == [f"{tmp_path / 'clip.mp4'}: 64x48 h264, 25 fps"]


def test_a_lost_server_is_found_again() -> None:
    # Two connections that break off, then a server that is gone for good.
    with BreakingServer(transport_stream(2.0), [36, 36]) as server:
        reading, ring = capture(server.url, retries=3)
    assert reading.reconnects == 1
    runs = sorted({frame.run for _, frame in ring.came})
    assert runs == [1, 2]
    times = [frame.time for _, frame in ring.came]
    assert times == sorted(times)
    assert {frame.run for frame in ring.frames()[1]} == {2}  # nothing from before the loss
    notices = list(reading.notices)
    assert notices[0] == f"{server.url}: 64x48 h264, 25 fps"
    assert "lost (" in notices[1]
    assert notices[1].endswith("attempt 1 of 3 to reconnect in 0.05 s")
    assert "back after " in notices[2]
    assert [notice.rpartition("; ")[2] for notice in notices[3:]] == [
        "attempt 1 of 3 to reconnect in 0.05 s",
        "attempt 2 of 3 to reconnect in 0.1 s",
        "attempt 3 of 3 to reconnect in 0.1 s",
    ]
    assert isinstance(reading.error, SourceError)
    assert str(reading.error) == f"{server.url}: lost, and 3 attempts to reconnect failed ({_refused(reading.error)})"


def _refused(error: SourceError) -> str:
    assert "connection refused" in error.reason
    return error.reason.partition("failed (")[2][:-1]


def test_rtsp_goes_over_tcp_and_is_found_again() -> None:
    with BreakingRtspServer(transport_stream(2.0), [36, 36]) as server:
        reading, ring = capture(server.url, retries=2)
    assert server.transports
    assert all(transport.startswith("RTP/AVP/TCP") for transport in server.transports)
    assert reading.reconnects == 1
    assert {frame.run for _, frame in ring.came} == {1, 2}
    assert isinstance(reading.error, SourceError)
    assert "lost, and 2 attempts to reconnect failed" in reading.error.reason


def test_a_server_that_stops_sending_is_lost() -> None:
    with BreakingServer(transport_stream(1.0), [None]) as server:
        began = time.monotonic()
        reading, ring = capture(server.url, timeout=0.5)
        assert time.monotonic() - began < 60
    assert isinstance(reading.error, SourceError)
    assert "no answer within 0.5 s" in reading.error.reason
    assert not ring.came


def test_a_server_that_falls_silent_is_lost() -> None:
    with BreakingServer(transport_stream(2.0), [36], hold=True) as server:
        reading, ring = capture(server.url, timeout=0.5)
    assert len(ring.came) > 10
    assert isinstance(reading.error, SourceError)
    assert reading.error.reason == "lost (no data for 0.5 s)"


def test_reading_a_dead_server_can_be_stopped() -> None:
    with BreakingServer(transport_stream(1.0), [None]) as server:
        reading = Capture(parse_source(server.url), SHAPE, Recorder(), timeout=200.0, retries=0)
        reading.start()
        began = time.monotonic()
        reading.stop()
        assert time.monotonic() - began < 60


def test_a_source_that_never_opened_is_an_error() -> None:
    with BreakingServer([], []) as server:
        pass  # nobody listens there any more
    reading, ring = capture(server.url, retries=5)
    assert isinstance(reading.error, SourceError)
    assert "cannot be opened (connection refused); check the address" in str(reading.error)
    assert not reading.notices
    assert not ring.came


def test_decoding_that_is_too_slow_leaves_frames_out(tmp_path: Path) -> None:
    # Full HD at 4000 frames a second, with a key frame every 40.
    path = write_video(tmp_path / "fast.mp4", 0.01, fps=4000, height=1080, width=1920, repeats=200)
    reading, ring = capture(str(path))
    counts = reading.counts
    assert reading.error is None
    assert counts.decoded + counts.late == 8000
    assert 0 < counts.decoded < 4000
    assert counts.broken == 0
    times = [frame.time for _, frame in ring.came]
    assert times == sorted(times)
    assert times[-1] > 1.8  # it went on to the end


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_cut_file_ends_where_it_breaks(tmp_path: Path, cut: float) -> None:
    whole = b"".join(transport_stream(0.8))
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[: int(cut * len(whole))])
    reading, ring = capture(str(path), retries=3)
    assert reading.error is None
    assert 5 <= len(ring.came) < 20
    assert not any("reconnect" in notice for notice in reading.notices)


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all")
    for path, kind, words in (
        (text, NotAVideoError, "is not a video: it holds text"),
        (tmp_path / "nowhere.mp4", VideoError, "no such file or folder"),
        (tmp_path, VideoError, "is a folder"),
    ):
        reading, _ = capture(str(path))
        assert isinstance(reading.error, kind)
        assert words in str(reading.error)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("0", "camera", "camera 0"),
        ("/dev/video2", "camera", "camera /dev/video2"),
        ("clips/a.mp4", "file", "clips/a.mp4"),
        ("rtsp://cam.local/1", "url", "rtsp://cam.local/1"),
        ("rtsp://me:secret@cam.local:554/1?x=@", "url", "rtsp://***@cam.local:554/1?x=@"),
        ("HTTP://host/a.ts", "url", "HTTP://host/a.ts"),
    ],
)
def test_what_a_source_is(text: str, kind: str, name: str) -> None:
    source = parse_source(text)
    assert (source.kind, source.name) == (kind, name)


def test_unknown_addresses() -> None:
    for text in ("file:///etc/passwd", "concat://a", "gopher://x"):
        with pytest.raises(SourceError, match="unknown kind of address"):
            parse_source(text)
