"""Encoders of small clips for tests: many codecs, containers and awkward structures, all made on the spot."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 64, 48
NUM_FRAMES = 48
RATE = Fraction(25)

Frames = npt.NDArray[np.uint8]
os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
X264_GOP = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:log-level=none"


def moving_frames(count: int, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """frames_THWC: a textured background and a moving square; each frame differs from all others."""
    rng = np.random.default_rng(7)
    background_HWC = rng.integers(0, 120, (height, width, 3))
    y_H1, x_1W = np.mgrid[0:height, 0:width]
    frames_THWC = np.empty((count, height, width, 3), dtype=np.uint8)
    for t in range(count):
        frame_HWC = background_HWC + (x_1W + 3 * t)[..., None] % 60 + np.array([0, t % 40, 2 * (t % 30)])
        inside = (abs(x_1W - (5 * t) % width) < 9) & (abs(y_H1 - (3 * t) % height) < 9)
        frame_HWC[inside] = 255 - 4 * (t % 60)
        frames_THWC[t] = np.clip(frame_HWC, 0, 255)
    return frames_THWC


def encode(
    path: Path,
    codec: str,
    *,
    count: int = NUM_FRAMES,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    rate: Fraction = RATE,
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    muxer_options: dict[str, str] | None = None,
    max_b_frames: int | None = None,
    gop_size: int | None = None,
    images: Frames | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    packets: Callable[[list[av.Packet]], list[av.Packet]] | None = None,
) -> Path:
    """Encode `count` moving frames.

    Args:
        path: target; its suffix chooses the container.
        codec: FFmpeg's encoder name.
        count: number of frames.
        size: height, width.
        rate: frames per second.
        options: encoder options.
        pts: one stamp per frame in `time_base` (default: 0, 1, 2 ... in frame durations).
        time_base: unit of `pts`.
        muxer_options: container options.
        max_b_frames: B-frames in a row, for encoders without an option for that.
        gop_size: largest distance of key frames.
        images: frames_THWC to encode instead of the moving ones; `count` and `size` must fit them.
        rotation: degrees that a player has to turn frames clockwise (mp4 and mov only).
        aspect: width of a pixel over its height.
        packets: changes the list of packets before it is written.
    """
    with av.open(str(path), "w", options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if max_b_frames is not None:
            stream.codec_context.max_b_frames = max_b_frames
        if gop_size is not None:
            stream.codec_context.gop_size = gop_size
        container.start_encoding()
        encoded: list[av.Packet] = []
        for t, image_HWC in enumerate(moving_frames(count, *size) if images is None else images):
            frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts = t if pts is None else pts[t]
            frame.time_base = time_base or 1 / rate
            encoded += stream.encode(frame)
        encoded += stream.encode(None)
        for packet in encoded if packets is None else packets(encoded):
            packet.stream = stream
            container.mux(packet)
    if rotation:
        set_rotation(path, rotation)
    return path


def decode_all(path: Path) -> Frames:
    """Every frame of a file as a plain decode gives it: the truth that readers are compared with."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def irregular_pts(count: int) -> list[int]:
    """Strictly ascending stamps with uneven gaps."""
    gaps = np.random.default_rng(3).integers(1, 9, count)
    return [int(v) for v in np.cumsum(gaps)]


def flickering_frames(count: int) -> Frames:
    """Frames whose brightness flips every third one: scene cuts after which old frames help again."""
    frames_THWC = moving_frames(count)
    flipped = np.arange(count) // 3 % 2 == 1
    frames_THWC[flipped] = 255 - frames_THWC[flipped]
    return frames_THWC


def pack_b_frames(packets: list[av.Packet]) -> list[av.Packet]:
    """DivX's packed bitstream: a P and its B-frame share a packet, and a picture "not coded" follows."""
    user_data = b"\x00\x00\x01\xb2DivX503b1393p"
    not_coded = b"\x00\x00\x01\xb6\x50\x00\x7f"
    first = bytes(packets[0])
    at = first.find(b"\x00\x00\x01\xb6")
    contents = [first[:at] + user_data + first[at:]]
    rest = [bytes(p) for p in packets[1:]]
    for i in range(0, len(rest) - 1, 2):
        contents += [rest[i] + rest[i + 1], not_coded]
    if len(rest) % 2:
        contents.append(rest[-1])
    packed = []
    for number, (packet, content) in enumerate(zip(packets, contents, strict=True)):
        new = av.Packet(content)
        new.pts = new.dts = number
        new.duration = 1
        new.time_base = packet.time_base
        new.is_keyframe = packet.is_keyframe
        packed.append(new)
    return packed


def set_edit_list(path: Path, edits: Sequence[tuple[float, int]]) -> None:
    """Replace the edit list of an mp4 whose moov lies at the end by (seconds, media time) entries."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") - 4
    old_size = int.from_bytes(data[at : at + 4], "big")
    movie = data.index(b"mvhd")
    timescale = int.from_bytes(data[movie + 16 : movie + 20], "big")
    body = b"".join(struct.pack(">IiI", round(s * timescale), media, 1 << 16) for s, media in edits)
    box = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(edits)) + body
    for parent in (b"moov", b"trak", b"edts"):
        start = data.index(parent) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(box) - old_size
        data[start : start + 4] = size.to_bytes(4, "big")
    data[at : at + old_size] = box
    path.write_bytes(data)


def drop_usability_information(path: Path) -> None:
    """Cut the usability information, with the number of pictures to hold back, from x264's parameter set in an mp4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"avcC") + 4 + 6
    length = int.from_bytes(data[at : at + 2], "big")
    unit = bytes(data[at + 2 : at + 2 + length])
    bits = "".join(f"{byte:08b}" for byte in unit[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    place = 24

    def skip_numbers(count: int) -> None:
        nonlocal place
        for _ in range(count):
            zeros = bits.index("1", place) - place
            place += 2 * zeros + 1

    assert bits[:8] == f"{100:08b}"  # High: then chroma, depths and two flags
    skip_numbers(4)
    place += 2
    skip_numbers(4)  # bits of frame_num, order kind 0 and its bits, reference frames
    place += 1
    skip_numbers(2)
    place += 2
    assert bits[place : place + 2] == "01"  # no cropping; usability information follows
    kept = bits[: place + 1] + "01"
    kept += "0" * (-len(kept) % 8)
    short = unit[:1] + bytes(int(kept[i : i + 8], 2) for i in range(0, len(kept), 8))
    assert b"\x00\x00" not in short
    # Trailing zero bytes are no part of a unit, so the box keeps its length.
    data[at + 2 : at + 2 + length] = short + bytes(length - len(short))
    path.write_bytes(data)


def set_rotation(path: Path, rotation: int) -> None:
    """Write the display matrix that phones write into the track header of an mp4."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[rotation]
    set_matrix(path, (cosine, sine, -sine, cosine))


def set_matrix(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """Write a, b, c, d of a display matrix into the track header of an mp4: (x, y) goes to (ax + cy, bx + dy)."""
    one = 1 << 16
    a, b, c, d = (round(value * one) for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert data[at : at + 36] == struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


# Stored corners: red, green / blue, white. Matrix a, b, c, d -> the corners as ffplay shows them, row by row.
ORIENTATIONS: dict[str, tuple[tuple[int, int, int, int], str]] = {
    "identity": ((1, 0, 0, 1), "rg/bw"),
    "rotated 90": ((0, 1, -1, 0), "br/wg"),
    "rotated 180": ((-1, 0, 0, -1), "wb/gr"),
    "rotated 270": ((0, -1, 1, 0), "gw/rb"),
    "mirrored left-right": ((-1, 0, 0, 1), "gr/wb"),
    "mirrored top-bottom": ((1, 0, 0, -1), "bw/rg"),
    "transposed": ((0, 1, 1, 0), "rb/gw"),
    "transversed": ((0, -1, -1, 0), "wg/br"),
}
_COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}


def corner_frames(count: int, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """frames_THWC of four coloured quarters, red, green / blue, white, each with a dark mark that moves."""
    frames_THWC = np.empty((count, height, width, 3), dtype=np.uint8)
    y, x = height // 2, width // 2
    for t in range(count):
        for rows, columns, name in ((0, 0, "r"), (0, x, "g"), (y, 0, "b"), (y, x, "w")):
            frames_THWC[t, rows : rows + y, columns : columns + x] = _COLOURS[name]
        frames_THWC[t, y - 2 : y + 2, 2 * t : 2 * t + 4] = 0
    return frames_THWC


def corners(frame_HWC: Frames) -> str:
    """Colours near the corners of a frame, by the letters of `ORIENTATIONS`."""
    height, width = frame_HWC.shape[:2]
    found = []
    for y, x in ((4, 4), (4, width - 5), (height - 5, 4), (height - 5, width - 5)):
        away = {name: int(abs(frame_HWC[y, x].astype(int) - colour).sum()) for name, colour in _COLOURS.items()}
        found.append(min(away, key=away.__getitem__))
    return f"{found[0]}{found[1]}/{found[2]}{found[3]}"


def media_timescale(path: Path) -> int:
    """Ticks per second of an mp4's first track."""
    data = path.read_bytes()
    at = data.index(b"mdhd")
    return int.from_bytes(data[at + 16 : at + 20], "big")


def _edited(edits: Callable[[int], list[tuple[float, int]]]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        encode(path, "libx264", options={"x264-params": X264_GOP})
        set_edit_list(path, edits(media_timescale(path) // int(RATE)))
        return path

    return make


def _x264(extra: str = "", **arguments: object) -> Callable[[Path], Path]:
    params = X264_GOP + (":" + extra if extra else "")
    return lambda path: encode(path, "libx264", options={"x264-params": params}, **arguments)  # type: ignore[arg-type]


def _x265(path: Path) -> Path:
    params = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop=1:log-level=none:pools=none"
    return encode(path, "libx265", options={"x265-params": params, "preset": "ultrafast"})


def _vpx(codec: str) -> Callable[[Path], Path]:
    options = {"auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "realtime", "cpu-used": "4", "g": "16"}
    options |= {"b": "200k"}
    return lambda path: encode(path, codec, options=options | {"deadline": "good"})


# name -> how to make it. Frames of all must equal those of a full decode.
AWKWARD_CLIPS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": _x264(),
    "h264_b_pyramid.mkv": _x264("bframes=5:b-pyramid=normal:ref=4"),
    "h264.avi": _x264(),
    "h264.mov": _x264(),
    "h264_ntsc.mp4": _x264(rate=Fraction(30000, 1001)),
    "h264_vfr.mp4": _x264(pts=irregular_pts(NUM_FRAMES), time_base=Fraction(1, 90)),
    "h264_vfr.mkv": _x264(pts=irregular_pts(NUM_FRAMES), time_base=Fraction(1, 90)),
    "h264_start.mp4": _x264(pts=range(140, 140 + NUM_FRAMES)),
    "h264_start.mkv": _x264(pts=range(140, 140 + NUM_FRAMES)),
    "h264_open.mp4": _x264("open-gop=1"),
    "h264_open.mkv": _x264("open-gop=1:bframes=5:b-pyramid=normal"),
    "h264_open.ts": _x264("open-gop=1"),
    "h264.ts": _x264(),
    "h264_refresh.mp4": _x264("intra-refresh=1:bframes=0"),
    "h264_interlaced.mp4": _x264("interlaced=1"),
    "h264_intra.mp4": lambda path: encode(
        path,
        "libx264",
        options={"x264-params": "keyint=250:min-keyint=125:scenecut=60:bframes=0:ref=6:log-level=none"},
        images=flickering_frames(NUM_FRAMES),
    ),
    "h264_fragmented.mp4": _x264(muxer_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264_cut_start.mp4": _edited(lambda tick: [(1.2, 17 * tick)]),
    "h264_cut_end.mp4": _edited(lambda tick: [(1.0, 2 * tick)]),
    "h264_two_edits.mp4": _edited(lambda tick: [(0.6, 22 * tick), (0.8, 2 * tick)]),
    "h265_open.mp4": _x265,
    "h265_open.mkv": _x265,
    "h265_open.ts": _x265,
    "mpeg4.mp4": lambda path: encode(path, "mpeg4", max_b_frames=2, gop_size=12),
    "mpeg4.avi": lambda path: encode(path, "mpeg4", max_b_frames=0, gop_size=12),
    "mpeg4_b.avi": lambda path: encode(path, "mpeg4", max_b_frames=2, gop_size=12),
    "mpeg4_packed.avi": lambda path: encode(
        path, "mpeg4", max_b_frames=1, gop_size=13, options={"b_strategy": "0"}, packets=pack_b_frames
    ),
    "mpeg2.mpg": lambda path: encode(path, "mpeg2video", max_b_frames=2, gop_size=12),
    "mpeg2.mkv": lambda path: encode(path, "mpeg2video", max_b_frames=2, gop_size=12),
    "vp9.webm": _vpx("libvpx-vp9"),
    "vp9.mp4": _vpx("libvpx-vp9"),
    "vp8.webm": _vpx("libvpx"),
    "av1.mp4": lambda path: encode(path, "libsvtav1", options={"preset": "12", "g": "16"}),
    "mjpeg.avi": lambda path: encode(path, "mjpeg"),
}
