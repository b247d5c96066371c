"""Frames as a player shows them: display matrices, non-square pixels, and which of several streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import video_fixtures as vf
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st

import emim.data.video.packets as video_packets_module
from emim.data.augment.transforms import AugmentOptions
from emim.data.dataset import TestClips, TrainClips
from emim.data.manifest import ClipEntry, ClipList
from emim.data.prefetch import VideoViews
from emim.data.preprocessing import Preprocessing, finish_views
from emim.data.video import VideoFileReader, open_video
from emim.data.video.geometry import Orientation
from emim.datasets.reencode import reencode
from emim.datasets.video_check import check_video
from emim.inference.live.capture import Capture
from emim.inference.live.clip import ClipShape, FrameRing, LiveFrame
from emim.inference.live.connection import parse_source
from emim.inference.reading import ViewReader

_X264 = {"x264-params": vf.X264_GOP}
_COUNT = 30


def corner_clip(path: Path, **options: object) -> Path:
    """30 frames, soon played."""
    images_THWC, rate = vf.corner_frames(_COUNT), Fraction(100)
    return vf.encode(path, "libx264", count=_COUNT, rate=rate, images=images_THWC, options=_X264, **options)  # type: ignore[arg-type]


def all_equal(found: Iterator[str]) -> str:
    (only,) = set(found)
    return only


# --- display matrices -------------------------------------------------------------------------------


@pytest.fixture(params=list(vf.ORIENTATIONS))
def oriented(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, np.ndarray]:
    """An mp4 with one of the eight matrices, the corners that ffplay shows, and every frame as ffmpeg turns it."""
    (a, b, c, d), corners = vf.ORIENTATIONS[request.param]
    path = corner_clip(tmp_path / "clip.mp4")
    vf.set_matrix(path, (a, b, c, d))
    frames_THWC = vf.decode_all(path)
    # The filters that ffmpeg inserts (ffmpeg_filter.c): transpose, then hflip and vflip.
    if b:
        frames_THWC = frames_THWC.swapaxes(1, 2)
    if a + c < 0:
        frames_THWC = frames_THWC[:, :, ::-1]
    if b + d < 0:
        frames_THWC = frames_THWC[:, ::-1]
    assert vf.corners(frames_THWC[3]) == corners
    return path, corners, frames_THWC


def test_every_matrix_every_way_of_reading(oriented: tuple[Path, str, np.ndarray]) -> None:
    path, corners, truth_THWC = oriented
    with open_video(path) as reader:
        assert (reader.height, reader.width) == truth_THWC.shape[1:3]
        np.testing.assert_array_equal(reader.read(range(_COUNT)), truth_THWC)
    with open_video(path) as reader:  # from key frames, at random, backwards
        for indices in ([25], [3, 28, 14], [29, 1], [0]):
            np.testing.assert_array_equal(reader.read(indices), truth_THWC[indices])
    with open_video(path.read_bytes()) as reader:
        assert vf.corners(reader.read([20])[0]) == corners


def test_every_matrix_when_counting_or_reading_the_file_again(
    oriented: tuple[Path, str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_packets_module, "MIN_FILE_SEEK", 8)
    path, _, truth_THWC = oriented
    with VideoFileReader(path, packet_memory=0, frame_memory=0) as reader:
        reader._count_by_decoding()
        for indices in ([25], [3, 28, 14], range(_COUNT)):
            np.testing.assert_array_equal(reader.read(indices), truth_THWC[list(indices)])


def test_rotation_and_mirroring_are_reported(tmp_path: Path) -> None:
    reported = {}
    path = corner_clip(tmp_path / "clip.mp4")
    plain = path.read_bytes()
    for name, (matrix, _) in vf.ORIENTATIONS.items():
        path.write_bytes(plain)
        vf.set_matrix(path, matrix)
        with open_video(path) as reader:
            reported[name] = reader.rotation, reader.mirrored
    assert reported == {
        "identity": (0, False),
        "rotated 90": (90, False),
        "rotated 180": (180, False),
        "rotated 270": (270, False),
        "mirrored left-right": (0, True),
        "mirrored top-bottom": (180, True),
        "transposed": (90, True),
        "transversed": (270, True),
    }


@given(st.builds(Orientation, st.booleans(), st.booleans(), st.booleans()))
def test_rotation_then_mirroring_is_the_orientation(orientation: Orientation) -> None:
    frame_HWC = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned_HWC = np.rot90(frame_HWC, k=-orientation.rotation // 90)
    expected_HWC = turned_HWC[:, ::-1] if orientation.mirrored else turned_HWC
    np.testing.assert_array_equal(orientation.apply(frame_HWC), expected_HWC)


def test_every_matrix_reencoded(tmp_path: Path) -> None:
    paths = []
    for number, (matrix, _) in enumerate(vf.ORIENTATIONS.values()):
        paths.append(corner_clip(tmp_path / "videos" / f"{number}.mp4") if number else _first(tmp_path))
        vf.set_matrix(paths[-1], matrix)
    clips = ClipList(tuple(ClipEntry(path, 0) for path in paths), ("a",), tmp_path / "videos")
    result = reencode(clips, tmp_path / "small", 24, workers=1)
    assert not result.failed
    for entry, (matrix, corners) in zip(result.clip_list, vf.ORIENTATIONS.values(), strict=True):
        with open_video(entry.path) as reader:
            assert (reader.rotation, reader.mirrored) == (0, False)
            assert (reader.height, reader.width) == ((24, 32) if matrix[0] else (32, 24))
            assert all_equal(map(vf.corners, reader.read(range(_COUNT)))) == corners


def _first(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return corner_clip(tmp_path / "videos" / "0.mp4")


class _Kept(FrameRing):
    def __init__(self) -> None:
        super().__init__(8, 0.01)
        self.all: list[LiveFrame] = []

    def put(self, frame: LiveFrame) -> None:
        self.all.append(frame)
        super().put(frame)


def live_frames(path: Path) -> vf.Frames:
    """frames_THWC of a file as live recognition captures them."""
    ring = _Kept()
    shape = ClipShape(Preprocessing(num_frames=4, size=48, fit="letterbox"), span=0.4)
    reading = Capture(parse_source(str(path)), shape, ring, timeout=10.0, retries=0)
    reading.start()
    while not ring.closed:
        time.sleep(0.01)
    reading.stop()
    assert reading.error is None
    return np.stack([np.asarray(frame.pixels_CHW).transpose(1, 2, 0) for frame in ring.all])


def test_every_matrix_live(oriented: tuple[Path, str, np.ndarray]) -> None:
    path, corners, _ = oriented
    assert all_equal(map(vf.corners, live_frames(path))) == corners


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "corners"),
    [(90, 0, 0, "gw/rb"), (180, 0, 0, "wb/gr"), (0, 1, 0, "gr/wb"), (0, 0, 1, "bw/rg"), (90, 1, 0, "wg/br")],
)
def test_matrix_of_matroska(tmp_path: Path, degrees: int, hflip: int, vflip: int, corners: str) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = vf.HEIGHT, vf.WIDTH, "yuv420p"
        stream.set_display_rotation(degrees, bool(hflip), bool(vflip))
        for image_HWC in vf.corner_frames(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC)))
        container.mux(stream.encode())
    with open_video(path) as reader:
        assert all_equal(map(vf.corners, reader.read(range(8)))) == corners


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("message", "corners"),
    [("rotate=90", "gw/rb"), ("flip=vertical", "bw/rg"), ("rotate=270:flip=horizontal", "wg/br")],
)
def test_orientation_in_the_bitstream_holds_for_all_frames(
    tmp_path: Path, suffix: str, message: str, corners: str
) -> None:
    """FFmpeg attaches it to key frames only; the standard says that it persists."""
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(corner_clip(tmp_path / "plain.mp4"))) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        insert = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{message}", stream, copied)
        for packet in source.demux(stream):
            for changed in insert.filter(packet if packet.size else None):
                changed.stream = copied
                target.mux(changed)
    with open_video(path) as reader:
        for indices in ([26], [5, 13], range(_COUNT)):
            assert all_equal(map(vf.corners, reader.read(indices))) == corners
    assert all_equal(map(vf.corners, live_frames(path))) == corners


# --- pixels that are not square ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(4, 3), (48, 85)),  # wide pixels: wider
        (Fraction(3, 4), (64, 64)),  # narrow pixels: higher, so that no column is lost
        (Fraction(64, 51), (48, 80)),
        (Fraction(256, 255), (48, 64)),  # what scaling to even sides leaves
        (Fraction(200, 1), (48, 64)),  # a mistake
    ],
)
def test_pixels_become_square(tmp_path: Path, suffix: str, aspect: Fraction, size: tuple[int, int]) -> None:
    path = corner_clip(tmp_path / f"clip.{suffix}", aspect=aspect)
    with open_video(path) as reader:
        frames_THWC = reader.read([0, 20])
        assert (reader.height, reader.width) == size == frames_THWC.shape[1:3]
        assert all_equal(map(vf.corners, frames_THWC)) == "rg/bw"
    with open_video(path, square_pixels=False) as reader:
        np.testing.assert_array_equal(reader.read(range(_COUNT)), vf.decode_all(path))


def test_a_circle_stays_round(tmp_path: Path) -> None:
    """Stored squeezed by 2, a circle is as wide as high again; also turned, interlaced, re-encoded and live."""
    y_H1, x_1W = np.mgrid[0:96, 0:64]
    inside = ((2 * x_1W - 64) ** 2 + (y_H1 - 48) ** 2) < 40**2
    images_THWC = np.repeat(np.where(inside, 255, 0).astype(np.uint8)[None, ..., None], 3, axis=3).repeat(8, axis=0)

    def measure(frame_HWC: vf.Frames) -> tuple[int, int]:
        bright = frame_HWC.mean(axis=2) > 128
        return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())

    for name, options, rotation in [("a", {}, 0), ("b", {}, 90), ("c", {"x264-params": "interlaced=1"}, 0)]:
        path = vf.encode(
            tmp_path / f"{name}.mp4", "libx264", count=8, size=(96, 64), options=options, images=images_THWC,
            rotation=rotation, aspect=Fraction(2),
        )  # fmt: skip
        with open_video(path) as reader:
            height, width = measure(reader.read([4])[0])
            assert (reader.height, reader.width) == ((128, 96) if rotation else (96, 128))
        assert abs(height - 79) <= 2
        assert abs(width - 79) <= 2
        clips = ClipList((ClipEntry(path, 0),), ("a",), tmp_path)
        small = reencode(clips, tmp_path / f"small_{name}", 48, workers=1).clip_list.entries[0].path
        with open_video(small) as reader:
            assert reader.pixel_aspect == 1  # type: ignore[attr-defined]
            assert sorted((reader.height, reader.width)) == [48, 64]
            height, width = measure(reader.read([4])[0])
        assert abs(height - 40) <= 2
        assert abs(width - 40) <= 2
        height, width = measure(live_frames(path)[4])
        assert abs(height - width) <= 2


def test_doctor_reports_the_displayed_size(tmp_path: Path) -> None:
    facts = check_video(corner_clip(tmp_path / "clip.mp4", aspect=Fraction(4, 3))).facts
    assert facts is not None
    assert (facts.height, facts.width) == (48, 85)


# --- several streams --------------------------------------------------------------------------------


def write_streams(path: Path, streams: list[tuple[int, int, int, Disposition | None]]) -> Path:
    """A file of several h264 streams: (frames, height, width, disposition); the k-th one shows brightness 50 k."""
    with av.open(str(path), "w") as container:
        added = []
        for _, height, width, disposition in streams:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            if disposition is not None:
                stream.disposition = disposition
            added.append(stream)
        container.start_encoding()
        packets = []
        for number, (stream, (count, height, width, _)) in enumerate(zip(added, streams, strict=True)):
            image_HWC = np.full((height, width, 3), 50 * number, dtype=np.uint8)
            for _ in range(count):
                packets += stream.encode(av.VideoFrame.from_ndarray(image_HWC))
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


_NONE = Disposition(0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([(2, 32, 48, None), (20, 64, 96, None)], 1),  # a preview first, which muxers mark as default
        ([(20, 64, 96, None), (2, 32, 48, None)], 0),
        ([(2, 128, 160, Disposition.default), (20, 64, 96, _NONE)], 1),
    ],
)
def test_the_stream_that_plays(
    tmp_path: Path, suffix: str, streams: list[tuple[int, int, int, Disposition | None]], chosen: int
) -> None:
    path = write_streams(tmp_path / f"clip.{suffix}", streams)
    expect_stream(path, chosen, streams[chosen])


def expect_stream(path: Path, chosen: int, stream: tuple[int, int, int, Disposition | None]) -> None:
    count, height, width, _ = stream
    for memory in (0, 1 << 20):
        with VideoFileReader(path, packet_memory=memory) as reader:
            assert (reader.num_frames, reader.height, reader.width) == (count, height, width)
            for indices in ([19], [3, 11], [0]):  # reads that open the file again
                assert abs(reader.read(indices).mean() - 50 * chosen) < 3
    facts = check_video(path).facts
    assert facts is not None
    assert facts.frames == count


@pytest.mark.parametrize("suffix", ["mkv", "ts"])  # in an mp4, one always is the default
def test_the_largest_where_none_is_default(tmp_path: Path, suffix: str) -> None:
    streams = [(20, 32, 48, _NONE), (20, 64, 96, _NONE), (20, 32, 48, _NONE)]
    expect_stream(write_streams(tmp_path / f"clip.{suffix}", [*streams]), 1, streams[1])


@pytest.mark.parametrize(("default", "chosen"), [(0, 0), (1, 1)])
def test_the_default_stream_comes_before_a_larger_one(tmp_path: Path, default: int, chosen: int) -> None:
    marks = [_NONE, _NONE]
    marks[default] = Disposition.default
    streams: list[tuple[int, int, int, Disposition | None]] = [(20, 64, 96, marks[0]), (20, 32, 48, marks[1])]
    expect_stream(write_streams(tmp_path / "clip.mkv", streams), chosen, streams[chosen])


def test_live_takes_the_same_stream(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "clip.mkv", [(2, 32, 48, None), (12, 64, 96, None)])
    assert len(live_frames(path)) == 12


def test_stored_pixels_can_be_read_as_published_pipelines_do(tmp_path: Path) -> None:
    """The key `preprocessing.square_pixels` reaches training, test and prediction: a letterbox shows the shape."""
    images_THWC = np.full((8, 96, 64, 3), 200, np.uint8)
    path = vf.encode(tmp_path / "narrow.mp4", "libx264", count=8, size=(96, 64), images=images_THWC, aspect=Fraction(2))
    clips = ClipList((ClipEntry(path, 0),), ("a",), tmp_path)
    shares = []
    for square in (True, False):
        pre = Preprocessing(num_frames=2, size=48, fit="letterbox", crops=1, square_pixels=square, mean=(0.0,) * 3)
        views = {
            "test": TestClips(clips, pre)[0]["views"],
            "prefetch": finish_views(VideoViews(pre)[path], pre),
            "predict": finish_views(ViewReader(pre)(path).views_VCTHW, pre),
            "train": TrainClips(clips, pre, AugmentOptions(), seed=0)[0]["clip"][None],
        }
        # The share of the input that the picture fills: shown it has 96 x 128 pixels, stored 96 x 64.
        found = {name: float((view[0, 0, 0] > 1).float().mean()) for name, view in views.items()}
        assert len({round(found[name], 2) for name in ("test", "prefetch", "predict")}) == 1, found
        shares.append(found)
    assert shares[0]["test"] == pytest.approx(3 / 4, abs=0.03)
    assert shares[1]["test"] == pytest.approx(2 / 3, abs=0.03)
    assert shares[0]["train"] != pytest.approx(shares[1]["train"], abs=0.02)
