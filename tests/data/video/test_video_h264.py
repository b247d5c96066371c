"""What H.264 says of itself: the depth of reordering, and the pictures that can be left out."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import video_fixtures as vf
from hypothesis import given
from hypothesis import strategies as st

from emim.data.video.h264 import UnneededPictures, pictures_held_back, reorder_depth


def stream_of(path: Path) -> tuple[bytes, list[tuple[bytes, int]]]:
    """The avcC record, and (data, pts) of every packet in decoding order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [(bytes(p), p.pts) for p in container.demux(stream) if p.size and p.pts is not None]
        return stream.codec_context.extradata or b"", packets


@pytest.mark.parametrize(
    ("extra", "depth"),
    [
        ("bframes=0", 0),
        ("b-pyramid=none", 1),
        ("b-pyramid=normal", 2),
        ("b-pyramid=normal:colorprim=bt709:sar=4/3:overscan=show:chromaloc=1", 2),
        ("b-pyramid=none:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500:pic-struct=1", 1),
        ("b-pyramid=none:cqm=jvt", 1),
        ("interlaced=1", None),
    ],
)
def test_reorder_depth_is_read_from_the_parameter_set(tmp_path: Path, extra: str, depth: int | None) -> None:
    params = f"keyint=12:scenecut=0:bframes=3:b-adapt=0:log-level=none:{extra}"
    path = vf.encode(tmp_path / "clip.mp4", "libx264", count=14, options={"x264-params": params})
    extradata, packets = stream_of(path)
    length = int.from_bytes(extradata[6:8], "big")
    parameters = extradata[8 : 8 + length]
    assert reorder_depth(parameters) == depth
    if depth is not None:
        assert pictures_held_back([pts for _, pts in packets]) == depth


def test_pictures_that_ffmpeg_skips_too(tmp_path: Path) -> None:
    """The same as those that FFmpeg's decoder discards when told to skip what nothing refers to."""
    path = vf.encode(tmp_path / "clip.mp4", "libx264", options={"x264-params": vf.X264_GOP})
    extradata, packets = stream_of(path)
    pictures = UnneededPictures(extradata)
    kept = sorted(pts for data, pts in packets if not pictures.note(memoryview(data)))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        decoded = [frame.pts for frame in container.decode(stream)]
    assert kept == decoded
    assert 0 < len(kept) < len(packets)
    assert pictures.can_be_left_out([pts for _, pts in packets])


def test_nothing_is_left_out_where_the_stream_is_in_doubt(tmp_path: Path) -> None:
    path = vf.encode(tmp_path / "clip.mp4", "libx264", options={"x264-params": vf.X264_GOP})
    extradata, packets = stream_of(path)
    stamps = [pts for _, pts in packets]
    unneeded = next(data for data, _ in packets if UnneededPictures(extradata).note(memoryview(data)))

    assert not UnneededPictures(b"").note(memoryview(unneeded))  # Annex B
    assert not UnneededPictures(extradata).can_be_left_out(sorted(stamps, reverse=True))  # more than announced
    with_picture_parameters = unneeded + b"\x00\x00\x00\x02\x68\xce"
    assert not UnneededPictures(extradata).note(memoryview(with_picture_parameters))
    needed_slice = unneeded + b"\x00\x00\x00\x02\x61\x00"
    assert not UnneededPictures(extradata).note(memoryview(needed_slice))

    for foreign in (b"\x67\x42\x00\x1e", b"\x06\x2f\x03\x00\x00\x40\x80"):  # parameters; a display orientation
        pictures = UnneededPictures(extradata)
        assert pictures.can_be_left_out(stamps)
        assert not pictures.note(memoryview(unneeded + len(foreign).to_bytes(4, "big") + foreign))
        assert not pictures.can_be_left_out(stamps)
        assert not pictures.note(memoryview(unneeded))


@given(st.binary(max_size=60))
def test_any_parameter_set_is_read_or_refused(data: bytes) -> None:
    depth = reorder_depth(b"\x67" + data)
    assert depth is None or 0 <= depth <= 16


@given(st.lists(st.integers(0, 30), max_size=20))
def test_pictures_held_back(stamps: list[int]) -> None:
    expected = max((sum(a > b for a in stamps[:n]) for n, b in enumerate(stamps)), default=0)
    assert pictures_held_back(stamps) == expected
