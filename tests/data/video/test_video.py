"""Video input: frames equal a full decode bit for bit, and every broken file has its own error."""

from __future__ import annotations

import os
import pickle
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import video_fixtures as vf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import emim.data.video.packets as video_packets_module
from emim.data.video import VIDEO_SUFFIXES, VideoFileReader, VideoReader, is_frame_folder, open_video
from emim.data.video.frame_folder import FrameFolderReader
from emim.data.video.index import pictures_held_back, read_packet_table
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

_SHARED = Path(__file__).parents[3] / "../shared"
_X264 = {"x264-params": vf.X264_GOP}

MakeClip = Callable[[str], tuple[Path, vf.Frames]]


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Encode a clip of `AWKWARD_CLIPS` and decode it in full, once per session."""
    folder = tmp_path_factory.mktemp("awkward")
    made: dict[str, tuple[Path, vf.Frames]] = {}

    def make(name: str) -> tuple[Path, vf.Frames]:
        if name not in made:
            path = vf.AWKWARD_CLIPS[name](folder / name)
            made[name] = path, vf.decode_all(path)
        return made[name]

    return make


@pytest.fixture
def shared() -> Path:
    if not _SHARED.is_dir():
        pytest.skip("the folder ../shared with real clips is not there")
    return _SHARED


def check_exact(reader: VideoReader, truth_THWC: vf.Frames, reads: int = 12) -> None:
    """Compare random reads, then all frames at once, with a full decode."""
    assert reader.num_frames == len(truth_THWC)
    rng = np.random.default_rng(5)
    for _ in range(reads):
        indices = rng.integers(0, reader.num_frames, 4).tolist()
        np.testing.assert_array_equal(reader.read(indices), truth_THWC[indices])
    np.testing.assert_array_equal(reader.read(range(reader.num_frames)), truth_THWC)


# --- exact frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(vf.AWKWARD_CLIPS))
def test_frames_equal_a_full_decode(awkward: MakeClip, name: str) -> None:
    path, truth_THWC = awkward(name)
    with open_video(path) as reader:
        assert (reader.height, reader.width) == truth_THWC.shape[1:3]
        check_exact(reader, truth_THWC)


@pytest.mark.parametrize("name", list(vf.AWKWARD_CLIPS))
def test_frames_equal_a_full_decode_without_memory(
    awkward: MakeClip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long videos are read from the file again; the same path, forced on short ones."""
    monkeypatch.setattr(video_packets_module, "MIN_FILE_SEEK", 8)
    path, truth_THWC = awkward(name)
    with VideoFileReader(path, packet_memory=0, frame_memory=0) as reader:
        check_exact(reader, truth_THWC)


@pytest.mark.parametrize(
    "name",
    [
        "h264.mp4",
        "h264_vfr.mkv",
        "h264_start.mp4",
        "h264_open.mkv",
        "h265_open.mp4",
        "mpeg4.mp4",
        "mpeg4.avi",
        "vp9.webm",
    ],
)
@pytest.mark.parametrize("packet_memory", [0, 1 << 20])
def test_last_frame_costs_one_group_of_pictures(
    awkward: MakeClip, name: str, packet_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_packets_module, "MIN_FILE_SEEK", 8)
    path, truth_THWC = awkward(name)
    with VideoFileReader(path, packet_memory=packet_memory) as reader:
        opening = reader.packets_decoded
        assert opening <= 6
        np.testing.assert_array_equal(reader.read([47])[0], truth_THWC[47])
        assert reader.packets_decoded - opening <= 20


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("h264.mp4", [0, 12, 24, 36]),
        ("h264_open.mp4", [0, 12, 24, 36]),  # recovery points, not refreshes
        ("h265_open.mkv", [0, 12, 24, 36]),
        ("vp9.webm", [0, 16, 32]),
        ("vp8.webm", [0, 16, 32]),
        ("mjpeg.avi", list(range(48))),
        ("h264_intra.mp4", [0]),  # intra pictures after which later ones refer to earlier ones
        ("h264_refresh.mp4", [0]),  # recovery points that are exact some pictures later
    ],
)
def test_where_decoding_may_start(awkward: MakeClip, name: str, starts: list[int]) -> None:
    with av.open(str(awkward(name)[0])) as container:
        table = read_packet_table(container, container.streams.video[0], memory_limit=0)
        assert table.packets is None
    assert table.doubts == []
    stamps = table.trusted_pts()
    assert stamps is not None
    assert [index for index, _ in table.entries(stamps)] == starts


def test_intra_pictures_are_there(awkward: MakeClip) -> None:
    with av.open(str(awkward("h264_intra.mp4")[0])) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert kinds.count(av.video.frame.PictureType.I) > 5


def test_frames_go_forward_without_decoding_twice(awkward: MakeClip) -> None:
    path, _ = awkward("h264.mp4")
    with VideoFileReader(path) as reader:
        reader.read(range(48))
        assert reader.packets_decoded == 48


@pytest.mark.parametrize(("name", "expected"), [("h264.mp4", 10), ("h264_b_pyramid.mkv", 8), ("h264.avi", 26)])
def test_pictures_to_which_no_other_refers_are_not_decoded(awkward: MakeClip, name: str, expected: int) -> None:
    """Of the B-frames before the last wanted frame, only those that others refer to. All of them in avi: no stamps."""
    path, truth_THWC = awkward(name)
    with VideoFileReader(path) as reader:
        np.testing.assert_array_equal(reader.read([0, 12, 23]), truth_THWC[[0, 12, 23]])
        assert reader.frames_decoded <= expected
        np.testing.assert_array_equal(reader.read(range(24, 48)), truth_THWC[24:])
        np.testing.assert_array_equal(reader.read([1, 30, 2]), truth_THWC[[1, 30, 2]])


@pytest.mark.parametrize("packet_memory", [0, 1 << 20])
def test_a_stream_that_does_not_say_how_many_pictures_are_held_back(
    tmp_path: Path, packet_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hardware encoders write such; the decoder guesses, also anew after each seek."""
    monkeypatch.setattr(video_packets_module, "MIN_FILE_SEEK", 8)
    path = vf.encode(tmp_path / "a.mp4", "libx264", options={"x264-params": vf.X264_GOP + ":b-pyramid=normal"})
    vf.drop_usability_information(path)
    truth_THWC = vf.decode_all(path)
    assert len(truth_THWC) == 48
    with VideoFileReader(path, packet_memory=packet_memory) as reader:
        check_exact(reader, truth_THWC, reads=40)


def test_sparse_reads_of_p_frames_go_on(tmp_path: Path) -> None:
    """Nothing can be left out, so the decoder is not emptied between reads."""
    path = vf.encode(tmp_path / "a.mp4", "libx264", options={"x264-params": "bframes=0:keyint=250:log-level=none"})
    with VideoFileReader(path) as reader:
        for start in range(0, 48, 12):
            reader.read([start, start + 5, start + 10])
        assert reader.packets_decoded == 48 - 1


def test_reading_one_by_one_decodes_every_picture_once(awkward: MakeClip) -> None:
    path, truth_THWC = awkward("h264_b_pyramid.mkv")
    with VideoFileReader(path) as reader:
        for index in range(48):
            np.testing.assert_array_equal(reader.read([index])[0], truth_THWC[index])
        assert reader.packets_decoded == 48


def test_a_closed_reader_keeps_its_size(awkward: MakeClip) -> None:
    reader = open_video(awkward("h264.mp4")[0])
    reader.close()
    assert (reader.height, reader.width, reader.rotation) == (48, 64, 0)
    with pytest.raises(VideoError, match="is closed"):
        reader.read([0])


def test_counted_frames_are_not_decoded_again(awkward: MakeClip) -> None:
    path, _ = awkward("h264.ts")
    with VideoFileReader(path) as reader:
        reader.read([40, 3])
        reader.read([20])
        assert reader.packets_decoded == 48


@given(st.lists(st.integers(0, 30), max_size=20))
def test_pictures_held_back(stamps: list[int]) -> None:
    expected = max((sum(a > b for a in stamps[:n]) for n, b in enumerate(stamps)), default=0)
    assert pictures_held_back(stamps) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["h264_b_pyramid.mkv", "h264_open.mp4", "h265_open.mkv", "mpeg4.mp4"]),
    lists=st.lists(st.lists(st.integers(0, vf.NUM_FRAMES - 1), max_size=8), min_size=1, max_size=4),
)
def test_any_list_of_indices(awkward: MakeClip, name: str, lists: list[list[int]]) -> None:
    path, truth_THWC = awkward(name)
    with open_video(path) as reader:
        for indices in lists:
            frames_THWC = reader.read(indices)
            assert frames_THWC.dtype == np.uint8
            assert frames_THWC.flags.c_contiguous
            np.testing.assert_array_equal(frames_THWC, truth_THWC[indices])


@pytest.mark.parametrize("index", [-1, 48, 1000])
def test_index_outside(awkward: MakeClip, index: int) -> None:
    path, _ = awkward("h264.mp4")
    with open_video(path) as reader:
        with pytest.raises(FrameIndexError, match=rf"h264\.mp4: frame index {index} is outside 0\.\.47"):
            reader.read([0, index])
        with pytest.raises(IndexError):
            reader.read([index])


# --- timing and rotation ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264.mp4", "h264_start.mkv", "h264.avi", "h264.ts", "vp9.webm"])
def test_rate_and_duration(awkward: MakeClip, name: str) -> None:
    with open_video(awkward(name)[0]) as reader:
        assert reader.fps == pytest.approx(25)
        assert reader.duration == pytest.approx(48 / 25, abs=2e-3)


def test_ntsc_rate(awkward: MakeClip) -> None:
    with open_video(awkward("h264_ntsc.mp4")[0]) as reader:
        assert reader.fps == pytest.approx(30000 / 1001)


def test_variable_rate_is_averaged(awkward: MakeClip) -> None:
    stamps = vf.irregular_pts(vf.NUM_FRAMES)
    with open_video(awkward("h264_vfr.mp4")[0]) as reader:
        assert reader.duration == pytest.approx((stamps[-1] - stamps[0]) / 90, abs=0.1)
        assert reader.fps == pytest.approx(reader.num_frames / reader.duration, rel=0.011)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_clips_come_out_upright(tmp_path: Path, rotation: int) -> None:
    path = vf.encode(tmp_path / "turned.mp4", "libx264", count=6, options=_X264, rotation=rotation)
    stored_THWC = vf.decode_all(path)
    upright_THWC = np.stack([np.rot90(f, k=-rotation // 90) for f in stored_THWC])
    with open_video(path) as reader:
        assert reader.rotation == rotation
        assert (reader.height, reader.width) == ((48, 64) if rotation in (0, 180) else (64, 48))
        np.testing.assert_array_equal(reader.read(range(6)), upright_THWC)


def test_rotation_is_clockwise(tmp_path: Path) -> None:
    """A phone held upright stores the picture's top at the left and states 90 degrees."""
    images_THWC = np.zeros((4, 48, 64, 3), dtype=np.uint8)
    images_THWC[:, :, :16] = 255  # bright left side
    path = vf.encode(tmp_path / "phone.mp4", "libx264", count=4, options=_X264, rotation=90, images=images_THWC)
    with open_video(path) as reader:
        frame_HWC = reader.read([2])[0]
    assert frame_HWC.shape == (64, 48, 3)
    assert frame_HWC[:8].min() > 200  # bright top
    assert frame_HWC[-8:].max() < 50


# --- folders of frames ------------------------------------------------------------------------------


def save_frames(folder: Path, pattern: str, numbers: range) -> vf.Frames:
    folder.mkdir()
    frames_THWC = vf.moving_frames(len(numbers))
    for number, frame_HWC in zip(numbers, frames_THWC, strict=True):
        Image.fromarray(frame_HWC).save(folder / pattern.format(number), quality=95, subsampling=0)
    return frames_THWC


@pytest.mark.parametrize("pattern", ["{:05d}.jpg", "img_{:05d}.jpg", "image_{}.jpg", "{}.png", "v2_{}.JPG"])
def test_folder_in_number_order(tmp_path: Path, pattern: str) -> None:
    truth_THWC = save_frames(tmp_path / "clip", pattern, range(1, 13))
    (tmp_path / "clip" / "notes.txt").write_text("not a frame")
    (tmp_path / "clip" / "._00001.jpg").write_bytes(b"hidden companion")
    assert is_frame_folder(tmp_path / "clip")
    assert not is_frame_folder(tmp_path)
    with open_video(tmp_path / "clip") as reader:
        assert (reader.num_frames, reader.height, reader.width) == (12, 48, 64)
        assert (reader.fps, reader.duration, reader.rotation) == (30.0, 0.4, 0)
        frames_THWC = reader.read([11, 0, 11, 9])
        error = abs(frames_THWC.astype(int) - truth_THWC[[11, 0, 11, 9]]).mean()
        assert error < 8  # jpg loses a little; neighbouring frames differ by far more
        assert abs(frames_THWC[0].astype(int) - truth_THWC[10]).mean() > 12
        with pytest.raises(FrameIndexError, match="frame index 12"):
            reader.read([12])


def test_folder_rate_can_be_set(tmp_path: Path) -> None:
    save_frames(tmp_path / "clip", "{}.jpg", range(6))
    with FrameFolderReader(tmp_path / "clip", fps=12) as reader:
        assert (reader.fps, reader.duration) == (12.0, 0.5)
    with pytest.raises(VideoError, match="fps must be above 0, got 0"):
        FrameFolderReader(tmp_path / "clip", fps=0)


def test_folder_with_another_size(tmp_path: Path) -> None:
    save_frames(tmp_path / "clip", "{}.jpg", range(4))
    Image.new("RGB", (20, 10)).save(tmp_path / "clip" / "2.jpg")
    with (
        open_video(tmp_path / "clip") as reader,
        pytest.raises(VideoError, match=r"2\.jpg is 20x10, but 0\.jpg is 64x48"),
    ):
        reader.read([0, 2])


@pytest.mark.parametrize("content", [b"text", None])
def test_folder_with_a_broken_image(tmp_path: Path, content: bytes | None) -> None:
    save_frames(tmp_path / "clip", "{}.jpg", range(4))
    file = tmp_path / "clip" / "3.jpg"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with open_video(tmp_path / "clip") as reader, pytest.raises(VideoError, match=r"3\.jpg"):
        reader.read([3])


def test_folder_without_and_with_one_image(tmp_path: Path) -> None:
    with pytest.raises(EmptyVideoError, match="no frame in this folder"):
        open_video(tmp_path)
    save_frames(tmp_path / "clip", "{}.jpg", range(1))
    with pytest.raises(SingleFrameError):
        open_video(tmp_path / "clip")
    with open_video(tmp_path / "clip", min_frames=1) as reader:
        assert reader.read([0, 0]).shape == (2, 48, 64, 3)


# --- broken files -----------------------------------------------------------------------------------


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def expect(error: type[VideoError], path: Path, pattern: str) -> None:
    with pytest.raises(error, match=pattern) as caught:
        open_video(path)
    assert type(caught.value) is error
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (type(restored), str(restored)) == (error, message)


def test_missing(tmp_path: Path) -> None:
    expect(VideoNotFoundError, tmp_path / "none.mp4", "no such file")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").write_bytes(b"")
    expect(EmptyVideoError, tmp_path / "zero.mp4", "zero bytes")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_container_without_frames(tmp_path: Path, suffix: str) -> None:
    path = vf.encode(tmp_path / f"none.{suffix}", "mpeg4", count=2, packets=lambda packets: packets[:0], gop_size=12)
    expect(EmptyVideoError, path, "no frame")


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
@pytest.mark.parametrize("kind", ["text", "image", "random", "playlist"])
def test_no_video(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    if kind == "text":
        path.write_text("label,clip\n" * 400)
        expect(NotAVideoError, path, "holds text")
    elif kind == "image":
        Image.new("RGB", (64, 48)).save(path, format="JPEG")
        expect(NotAVideoError, path, "holds an image")
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(6000))
        expect(NotAVideoError, path, "no known video format")
    else:
        # Following such a list would read files that nobody asked for.
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.ts\n#EXT-X-ENDLIST\n")
        expect(NotAVideoError, path, "holds text")


def test_png_named_mp4(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.mp4", format="PNG")
    expect(NotAVideoError, tmp_path / "picture.mp4", "holds an image")


def write_sound(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000)
        stream.layout = "mono"
        for start in range(0, 8192, 1024):
            samples = np.zeros((1, 1024), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_sound_only(tmp_path: Path) -> None:
    expect(NoVideoStreamError, write_sound(tmp_path / "sound.mp4", "aac"), "only audio")
    with wave.open(str(tmp_path / "sound.avi"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(4000))
    expect(NoVideoStreamError, tmp_path / "sound.avi", "only audio")


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "ts"])
def test_one_frame(tmp_path: Path, suffix: str) -> None:
    path = vf.encode(tmp_path / f"one.{suffix}", "libx264", count=1, options=_X264)
    expect(SingleFrameError, path, "one frame only.*min_frames=1")
    with open_video(path, min_frames=1) as reader:
        assert reader.num_frames == 1
        np.testing.assert_array_equal(reader.read([0, 0]), vf.decode_all(path)[[0, 0]])
        assert reader.fps > 0


def test_fewer_frames_than_asked(awkward: MakeClip) -> None:
    with pytest.raises(VideoError, match="has 48 frames, fewer than the 50"):
        open_video(awkward("h264.mp4")[0], min_frames=50)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["h264.mp4", "h264.avi", "mpeg4.avi", "h264.mov", "h264_open.mkv", "vp9.webm"])
def test_cut_files(awkward: MakeClip, tmp_path: Path, name: str, share: float) -> None:
    path = cut(awkward(name)[0], tmp_path / name, share)
    expect(TruncatedVideoError, path, "ends (after|before|inside)")


def test_cut_mp4_with_its_index_in_front(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "whole.mp4", "libx264", options=_X264, muxer_options={"movflags": "faststart"})
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")
    for share in (0.5, 0.8, 0.99):
        expect(TruncatedVideoError, cut(path, tmp_path / "cut.mp4", share), r"ends after \d+ of 48 frames")


def test_avi_without_the_index_at_its_end(awkward: MakeClip, tmp_path: Path) -> None:
    path, truth_THWC = awkward("mpeg4.avi")
    data = path.read_bytes()
    short = tmp_path / "short.avi"
    short.write_bytes(data[: data.index(b"idx1")])
    with open_video(short) as reader:
        check_exact(reader, truth_THWC)


def damage_packet(source: Path, target: Path, number: int, fill: str) -> Path:
    """Overwrite the content of one packet, save for its first bytes."""
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(container.streams.video[0]) if p.size][number]
        assert packet.pos is not None
        start, end = packet.pos + 4, packet.pos + packet.size
    data = bytearray(source.read_bytes())
    data[start:end] = bytes(end - start) if fill == "zeros" else b"\xa7" * (end - start)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.mp4", "vp9.webm", "h265_open.mkv"])
def test_damaged_packet(awkward: MakeClip, tmp_path: Path, name: str, fill: str) -> None:
    broken = damage_packet(awkward(name)[0], tmp_path / name, 20, fill)
    with pytest.raises(VideoError, match=rf"{name}: .*frame \d+"), open_video(broken) as reader:
        reader.read(range(48))


def test_damaged_file_stays_refused(awkward: MakeClip, tmp_path: Path) -> None:
    """Frames before the damage are right; once it is met, later reads cannot give shifted frames."""
    path, truth_THWC = awkward("mpeg4.mp4")
    broken = damage_packet(path, tmp_path / "damaged.mp4", 20, "zeros")
    with open_video(broken) as reader:
        np.testing.assert_array_equal(reader.read([3, 12]), truth_THWC[[3, 12]])
        for indices in (range(48), [30]):
            with pytest.raises(VideoError, match=r"announces 48 frames, but 46 decode"):
                reader.read(indices)


def test_size_that_changes(tmp_path: Path) -> None:
    first = vf.encode(tmp_path / "a.ts", "libx264", count=12, options=_X264)
    second = vf.encode(tmp_path / "b.ts", "libx264", count=12, options=_X264, size=(32, 32))
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with open_video(both) as reader:
        last = reader.num_frames - 1
        reader.read([0])
        with pytest.raises(VideoError, match=f"frame {last} is 32x32, but frame 0 is 64x48"):
            reader.read([last])


def test_nothing_is_printed(
    awkward: MakeClip, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    previous = av.logging.get_level()
    av.logging.set_level(av.logging.DEBUG)
    try:
        for name in ("h264.mp4", "mpeg4.avi", "vp9.webm"):
            with pytest.raises(VideoError):
                open_video(cut(awkward(name)[0], tmp_path / name, 0.5))
        with open_video(awkward("h264_open.ts")[0]) as reader:
            reader.read([30, 2])
        assert av.logging.get_level() == av.logging.DEBUG
    finally:
        av.logging.set_level(previous)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not [r for r in caplog.records if r.name.startswith("libav")]


# --- use in loaders ---------------------------------------------------------------------------------


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_readers_leak_nothing(awkward: MakeClip, tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure memory and open files")
    clips = [awkward("h264.mp4")[0], awkward("h264.ts")[0]]
    broken = cut(clips[0], tmp_path / "cut.mp4", 0.5)

    def use() -> None:
        for path in clips:
            with open_video(path) as reader:
                reader.read([3, 40])
        with pytest.raises(TruncatedVideoError):
            open_video(broken)

    for _ in range(30):
        use()
    memory, handles = resident_bytes(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(300):
        use()
    assert len(os.listdir("/proc/self/fd")) == handles  # noqa: PTH208
    # Keeping the frames of one clip each time would take 130 MB.
    assert resident_bytes() - memory < 12 << 20


def test_closing_twice(awkward: MakeClip) -> None:
    reader = open_video(awkward("h264.mp4")[0])
    reader.close()
    reader.close()


class _Clips:
    """A map-style data set that opens its file in the worker."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: int) -> vf.Frames:
        with open_video(self.path) as reader:
            return reader.read([item, 47 - item])


def test_in_loader_workers(awkward: MakeClip) -> None:
    from torch.utils.data import DataLoader

    path, truth_THWC = awkward("h264_open.mp4")
    loader: DataLoader[vf.Frames] = DataLoader(_Clips(path), num_workers=2, batch_size=None)  # type: ignore[arg-type]
    for item, frames_THWC in enumerate(loader):
        np.testing.assert_array_equal(np.asarray(frames_THWC), truth_THWC[[item, 47 - item]])


# --- real clips -------------------------------------------------------------------------------------


def some_real(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / "clips").glob("test*.*"))
    yield folder / "clips" / "demo.mp4"
    yield folder / "clips" / "intel" / "learn.mkv"
    yield from sorted((folder / "data" / "msr_action3d" / "test" / "jogging").glob("*.mp4"))[:2]
    yield from sorted((folder / "data" / "ut_interaction" / "segmented_set1").glob("*.avi"))[:2]


def test_real_clips_are_exact(shared: Path) -> None:
    paths = list(some_real(shared))
    assert len(paths) >= 6
    for path in paths:
        truth_THWC = vf.decode_all(path)
        with open_video(path, square_pixels=False) as reader:
            assert reader.num_frames == len(truth_THWC), path
            last = len(truth_THWC) - 1
            for indices in ([last // 2, 3, last, 3], [0], list(range(0, last, 13))):
                np.testing.assert_array_equal(reader.read(indices), truth_THWC[indices])


def test_a_published_copy_of_kinetics_is_16_to_9(shared: Path) -> None:
    """Stored with 340x256 pixels that are not square."""
    with open_video(shared / "clips" / "demo.mp4") as reader:
        assert (reader.height, reader.width) == (256, 427)


def test_all_real_clips_open(shared: Path) -> None:
    paths = [p for p in (shared / "clips").rglob("*") if p.suffix in VIDEO_SUFFIXES]
    assert len(paths) >= 20
    for path in paths:
        with open_video(path) as reader:
            assert reader.num_frames > 40
            assert reader.read([reader.num_frames // 2]).any()


@pytest.mark.slow
def test_all_real_data_open_with_exact_counts(shared: Path) -> None:
    for path in sorted((shared / "data").rglob("*")):
        if path.suffix in (".mp4", ".avi"):
            with open_video(path) as reader, av.open(str(path)) as container:
                assert reader.num_frames == sum(1 for _ in container.decode(video=0)), path
