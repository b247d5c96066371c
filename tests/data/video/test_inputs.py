"""Input beside video files: animated images, bytes, file objects, frames in memory; ranges of time."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import video_fixtures as vf
from PIL import Image

from emim.data.manifest import ClipEntry
from emim.data.preprocessing import Preprocessing, test_views
from emim.data.video import ArrayVideo, VideoReader, open_video
from emim.datasets.reencode import reencode
from emim.datasets.video_check import check_video
from emim.errors import (
    EmptyVideoError,
    FrameIndexError,
    NotAVideoError,
    NoVideoStreamError,
    SingleFrameError,
    TruncatedVideoError,
    VideoError,
    VideoNotFoundError,
)

_X264 = {"x264-params": vf.X264_GOP}
_LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def check_reads(reader: VideoReader, truth_THWC: vf.Frames) -> None:
    assert (reader.num_frames, reader.height, reader.width) == truth_THWC.shape[:3]
    for indices in ([5, 2, 9], [0], range(len(truth_THWC)), [1, 11]):
        np.testing.assert_array_equal(reader.read(indices), truth_THWC[list(indices)])


# --- animated images and raw mjpeg ------------------------------------------------------------------


def animation(path: Path, durations: int | list[int] = 40, **options: Any) -> tuple[Path, vf.Frames]:
    """12 frames, losslessly."""
    frames_THWC = vf.moving_frames(12)
    first, *rest = (Image.fromarray(frame_HWC) for frame_HWC in frames_THWC)
    form = {"webp": "WEBP", "apng": "PNG", "mp4": "WEBP"}[path.suffix[1:]]
    first.save(path, format=form, save_all=True, append_images=rest, duration=durations, loop=0, **options)
    return path, frames_THWC


@pytest.mark.parametrize("name", ["clip.webp", "clip.apng", "clip.mp4"])
def test_animated_images(tmp_path: Path, name: str) -> None:
    path, truth_THWC = animation(tmp_path / name, **({} if name == "clip.apng" else {"lossless": True}))
    for source in (path, path.read_bytes()):
        with open_video(source) as reader:
            assert (reader.fps, reader.duration) == pytest.approx((25, 0.48))
            assert reader.time_of(6) == pytest.approx(0.24)
            check_reads(reader, truth_THWC)
    facts = check_video(path).facts
    assert facts is not None
    assert facts.frames == 12


def test_webp_with_uneven_durations(tmp_path: Path) -> None:
    durations = [20, 100] * 6
    path, _ = animation(tmp_path / "clip.webp", durations)
    with open_video(path) as reader:
        assert reader.duration == pytest.approx(0.72)
        assert [reader.time_of(index) for index in range(4)] == pytest.approx([0, 0.02, 0.12, 0.14])
        assert reader.frame_range(0.1, 0.25) == (2, 5)
        assert reader.frame_range(0.13, None) == (3, 12)


def test_animated_webp_is_reencoded(tmp_path: Path) -> None:
    from emim.data.manifest import ClipList

    path, _ = animation(tmp_path / "clip.webp")
    result = reencode(ClipList((ClipEntry(path, 0),), ("a",), tmp_path), tmp_path / "small", 32, workers=1)
    assert not result.failed
    with open_video(result.clip_list.entries[0].path) as reader:
        assert (reader.num_frames, reader.height) == (12, 32)


@pytest.mark.parametrize("name", ["clip.webp", "clip.apng"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_animations(tmp_path: Path, name: str, share: float) -> None:
    path, _ = animation(tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TruncatedVideoError, match=r"bytes are missing|ends inside"):
        open_video(path)


def test_damaged_webp(tmp_path: Path) -> None:
    path, _ = animation(tmp_path / "clip.webp", lossless=True)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"ANMF") + 80
    data[at:] = bytes(len(data) - at)
    path.write_bytes(data)
    with open_video(path) as reader:
        reader.read([3])
        with pytest.raises(VideoError, match=r"clip\.webp: frame 11 does not decode"):
            reader.read([11])
    assert check_video(path).findings[0].kind == "damaged"


@pytest.mark.parametrize("form", ["WEBP", "PNG", "JPEG"])
def test_single_images_are_no_videos(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"still.{form.lower()}"
    Image.fromarray(vf.moving_frames(1)[0]).save(path, format=form)
    with pytest.raises(NotAVideoError, match="it holds an image"):
        open_video(path)


@pytest.mark.parametrize("suffix", ["mjpeg", "mjpg", "mp4"])
def test_raw_mjpeg(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    pictures = []
    for frame_HWC in vf.moving_frames(12):
        pictures.append(io.BytesIO())
        Image.fromarray(frame_HWC).save(pictures[-1], format="JPEG")
    path.write_bytes(b"".join(picture.getvalue() for picture in pictures))
    with open_video(path) as reader:
        assert reader.fps == 25  # the format states none; this is FFmpeg's
        check_reads(reader, vf.decode_all(path))


# --- clear words for what is no video ---------------------------------------------------------------


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text(_LFS_POINTER)
    with pytest.raises(NotAVideoError, match=r"clip\.mp4: is a Git LFS pointer, .*run `git lfs pull`"):
        open_video(path)
    finding = check_video(path).findings[0]
    assert finding.reason.startswith("is a Git LFS pointer")
    (tmp_path / "frames").mkdir()
    for number in range(3):
        (tmp_path / "frames" / f"{number}.jpg").write_text(_LFS_POINTER)
    with pytest.raises(VideoError, match=r"0\.jpg is a Git LFS pointer, .*run `git lfs pull`"):
        open_video(tmp_path / "frames")


@pytest.mark.parametrize("name", ["song.mp3", "song.mp4"])
def test_sound_with_a_cover_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame" if name == "song.mp3" else "aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image_HWC = vf.moving_frames(1)[0]
        for packet in cover.encode(av.VideoFrame.from_ndarray(image_HWC)) + cover.encode():
            container.mux(packet)
        for start in range(0, 8064, 576):
            samples = np.zeros((1, 576), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(NoVideoStreamError, match="holds no video stream, only audio and a cover picture"):
        open_video(path)


# --- bytes and file objects -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open.mkv", "h264.ts", "mpeg2.mpg", "mpeg4.avi", "vp9.webm"])
def test_content_instead_of_a_path(tmp_path: Path, name: str) -> None:
    path = vf.AWKWARD_CLIPS[name](tmp_path / name)
    data, truth_THWC = path.read_bytes(), vf.decode_all(path)
    for video in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        with open_video(video) as reader:
            assert reader.path == Path("<bytes>")
            check_reads(reader, truth_THWC)
    with path.open("rb") as file:
        with open_video(file) as reader:
            assert reader.path == path
            check_reads(reader, truth_THWC)
        assert not file.closed


@pytest.mark.parametrize(
    ("content", "error", "pattern"),
    [
        (b"", EmptyVideoError, "zero bytes"),
        (b"label,clip\n" * 400, NotAVideoError, "holds text"),
        (b"#EXTM3U\n#EXTINF:2,\nother.ts\n", NotAVideoError, "holds text"),
        (bytes(range(256)) * 20, NotAVideoError, "no known video format"),
    ],
)
def test_bytes_that_are_no_video(content: bytes, error: type[VideoError], pattern: str) -> None:
    with pytest.raises(error, match=f"<bytes>: .*{pattern}"):
        open_video(content)


def test_cut_bytes(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "a.mp4", "libx264", options=_X264, muxer_options={"movflags": "faststart"})
    data = path.read_bytes()
    with pytest.raises(TruncatedVideoError, match=r"<bytes>: ends after \d+ of 48 frames"):
        open_video(data[: len(data) // 2])


@pytest.mark.parametrize("video", [7, None, ["a.mp4"], io.StringIO("a.mp4"), np.zeros((4, 8, 8, 3), np.uint8)])
def test_other_types_are_refused(video: Any) -> None:
    with pytest.raises(TypeError, match=r"a video is a path, bytes, or a file opened in binary mode"):
        open_video(video)


# --- frames in memory -------------------------------------------------------------------------------


def test_array() -> None:
    truth_THWC = vf.moving_frames(12)
    for frames in (truth_THWC, torch.from_numpy(truth_THWC), list(truth_THWC), iter(truth_THWC)):
        with ArrayVideo(frames, fps=24) as reader:
            assert (reader.fps, reader.duration, reader.rotation, reader.mirrored) == (24, 0.5, 0, False)
            assert reader.time_of(6) == 0.25
            check_reads(reader, truth_THWC)
            with pytest.raises(FrameIndexError, match=r"frame index 12 is outside 0\.\.11"):
                reader.read([12])
    with ArrayVideo(truth_THWC[::-1, :, ::-1]) as reader:  # a view
        check_reads(reader, truth_THWC[::-1, :, ::-1])


def test_array_gives_the_views_of_the_file(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "a.mp4", "libx264", options=_X264)
    pre = Preprocessing(num_frames=8, size=32, sampling="dense", clips=2)
    with open_video(path) as reader, ArrayVideo(vf.decode_all(path), fps=25) as array:
        assert torch.equal(test_views(reader, pre), test_views(array, pre))


@pytest.mark.parametrize(
    ("frames", "error", "pattern"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), VideoError, r"are float32 of shape \[4, 8, 8, 3\]; give uint8 RGB"),
        (np.zeros((4, 3, 8, 8), np.uint8), VideoError, r"are uint8 of shape \[4, 3, 8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), VideoError, r"shape \[8, 8, 3\]"),
        (np.zeros((4, 0, 8, 3), np.uint8), VideoError, "no pixels"),
        (np.zeros((0, 8, 8, 3), np.uint8), EmptyVideoError, "no frame"),
        (np.zeros((1, 8, 8, 3), np.uint8), SingleFrameError, "one frame only"),
        ([], EmptyVideoError, "no frame"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], VideoError, "differ in shape"),
    ],
)
def test_arrays_that_are_no_video(frames: Any, error: type[VideoError], pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        ArrayVideo(frames)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_array_rate(fps: float) -> None:
    with pytest.raises(VideoError, match="fps must be above 0"):
        ArrayVideo(np.zeros((4, 8, 8, 3), np.uint8), fps=fps)


# --- times and ranges -------------------------------------------------------------------------------


def test_times_are_the_stored_ones(tmp_path: Path) -> None:
    stamps = vf.irregular_pts(20)
    for suffix in ("mp4", "mkv"):
        path = vf.encode(
            tmp_path / f"a.{suffix}", "libx264", count=20, options=_X264, pts=stamps, time_base=Fraction(1, 90)
        )
        with open_video(path) as reader:
            times = [reader.time_of(index) for index in range(20)]
            assert times == pytest.approx([(stamp - stamps[0]) / 90 for stamp in stamps], abs=1e-3)
            with pytest.raises(FrameIndexError):
                reader.time_of(20)
            # From the middle between two frames to just after another.
            start, end = (times[4] + times[5]) / 2, times[9] + 1e-3
            assert reader.frame_range(start, end) == (5, 10)


@pytest.mark.parametrize("name", ["h264_ntsc.mp4", "h264.mp4", "h264_start.mkv", "h264.ts", "mpeg4_b.avi", "vp9.webm"])
def test_even_times(tmp_path: Path, name: str) -> None:
    with open_video(vf.AWKWARD_CLIPS[name](tmp_path / name)) as reader:
        times = [reader.time_of(index) for index in range(48)]
        assert times == pytest.approx([index / reader.fps for index in range(48)], abs=2e-3)


@pytest.mark.parametrize("name", ["h264_ntsc.mp4", "h264.mp4", "h264_start.mkv", "mpeg4_b.avi"])
def test_a_range_of_time_holds_the_frames_of_a_manifest(tmp_path: Path, name: str) -> None:
    path = vf.AWKWARD_CLIPS[name](tmp_path / name)
    with open_video(path) as reader:
        for start in (None, 0.0, 0.04, 0.1, 0.123, 1.0):
            for end in (None, 1.04, 1.2, 1.234, 5.0):
                entry = ClipEntry(path, 0, start, end)
                assert reader.frame_range(start, end) == entry.frame_range(reader.num_frames, reader.fps)


def test_excerpt(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "a.mp4", "libx264", options=_X264, rotation=90)
    truth_THWC = np.rot90(vf.decode_all(path), k=-1, axes=(1, 2))
    with open_video(path, start=0.4, end=1.2) as reader:
        assert (reader.num_frames, reader.first, reader.fps) == (20, 10, 25)  # type: ignore[attr-defined]
        assert reader.duration == pytest.approx(0.8)
        assert (reader.rotation, reader.mirrored) == (90, False)
        assert reader.time_of(0) == pytest.approx(0.4)  # on the clock of the whole video
        check_reads(reader, truth_THWC[10:30])
        with pytest.raises(FrameIndexError, match=r"frame index 20 is outside 0\.\.19"):
            reader.read([20])
    with pytest.raises(VideoError, match="is closed"):
        open_and_close(path).read([0])
    with open_video(path, start=1.5) as reader:
        assert (reader.num_frames, reader.time_of(9)) == (10, pytest.approx(1.88))
        assert reader.duration == pytest.approx(0.4)


def open_and_close(path: Path) -> VideoReader:
    reader = open_video(path, start=0.4)
    reader.close()
    return reader


@pytest.mark.parametrize(
    ("start", "end", "pattern"),
    [
        (3.0, None, r"holds no frame from 3 s to 1\.92 s; it has 48 frames in 1\.92 s"),
        (1.0, 1.0, r"holds no frame from 1 s to 1 s"),
        (1.0, 0.5, "holds no frame"),
        (-1.0, None, r"a time of -1\.0 s: give seconds from 0"),
        (None, float("nan"), "a time of nan s"),
        (0.5, 0.53, "holds 1 frame from 0.5 s to 0.53 s, fewer than the 2"),
    ],
)
def test_ranges_that_hold_too_little(tmp_path: Path, start: float | None, end: float | None, pattern: str) -> None:
    path = vf.encode(tmp_path / "a.mp4", "libx264", options=_X264)
    with pytest.raises(VideoError, match=pattern):
        open_video(path, start=start, end=end)


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(VideoNotFoundError, match="no such file"):
        open_video("nowhere.webp", start=1)
