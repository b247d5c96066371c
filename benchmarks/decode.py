"""How long 16 of 300 frames take: this package's reader, decoding everything, and seeking for every frame.

    python benchmarks/decode.py --frames 300 --wanted 16 --repeats 7

Encodes its clips into a temporary folder (h264 with one key frame and with a key frame every 30, mpeg4, vp9),
runs the three methods in turn, on one thread each, and prints median milliseconds from opening the file to
RGB frames. All three must give the same pixels. `spread` wants frames over the whole clip, `window` 16 frames
at stride 2 from the middle.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from emim.data.video import open_video

Frames = npt.NDArray[np.uint8]
Method = Callable[[Path, Sequence[int]], Frames]

CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264, one key": ("libx264", "mp4", {"x264-params": "keyint=infinite:scenecut=0:log-level=none"}),
    "h264, key per 30": ("libx264", "mp4", {"x264-params": "keyint=30:scenecut=0:log-level=none"}),
    "mpeg4": ("mpeg4", "avi", {"b": "600k", "g": "12", "sc_threshold": "1000000000"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "b": "400k", "g": "128"}),
}


def make_clip(path: Path, codec: str, options: dict[str, str], count: int, height: int, width: int) -> None:
    """Encode a textured, panning scene with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 8 + 1, (width + 4 * count) // 8 + 2, 3), dtype=np.uint8)
    scene_HWC = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(count):
            noise_HWC = rng.integers(0, 12, (height, width, 3), dtype=np.uint8)
            view_HWC = scene_HWC[:height, 3 * t : 3 * t + width] // 2 + noise_HWC
            frame = av.VideoFrame.from_ndarray(view_HWC, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_ours(path: Path, indices: Sequence[int]) -> Frames:
    with open_video(path) as reader:
        return reader.read(indices)


def read_decode_all(path: Path, indices: Sequence[int]) -> Frames:
    """Decode to the end, as a caller must who does not know the number of frames; convert wanted ones."""
    wanted = set(indices)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        found = {t: frame.to_ndarray(format="rgb24") for t, frame in enumerate(container.decode(stream)) if t in wanted}
    return np.stack([found[t] for t in indices])


def read_seek_each(path: Path, indices: Sequence[int]) -> Frames:
    """Seek to the key frame before each wanted frame and decode up to it."""
    frames: list[Frames] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stamps = sorted(p.pts for p in container.demux(stream) if p.size and p.pts is not None)
        for index in indices:
            container.seek(stamps[index], stream=stream)
            for frame in container.decode(stream):
                if frame.pts == stamps[index]:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(frames)


METHODS: dict[str, Method] = {
    "emim": read_ours,
    "decode all": read_decode_all,
    "seek for each": read_seek_each,
}


def measure(path: Path, indices: Sequence[int], repeats: int) -> dict[str, float]:
    """Median milliseconds per method; the methods take turns so that other load meets all of them."""
    truth_THWC = read_decode_all(path, indices)
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(repeats):
        for name, method in METHODS.items():
            start = time.perf_counter()
            frames_THWC = method(path, indices)
            times[name].append(1e3 * (time.perf_counter() - start))
            if not np.array_equal(frames_THWC, truth_THWC):
                raise SystemExit(f"{name} gives other pixels than a full decode on {path.name}")
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=300, help="frames per clip")
    parser.add_argument("--wanted", type=int, default=16, help="frames read")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs per method")
    parser.add_argument("--height", type=int, default=240, help="pixels")
    parser.add_argument("--width", type=int, default=320, help="pixels")
    options = parser.parse_args()
    count, wanted = options.frames, options.wanted
    if not 1 <= wanted <= count // 4:
        parser.error(f"--wanted must lie in 1..{count // 4} (a quarter of --frames), got {wanted}")
    choices = {
        "spread": [int((i + 0.5) * count / wanted) for i in range(wanted)],
        "window": [count // 2 + 2 * i for i in range(wanted)],
    }
    print(f"{wanted} of {count} frames, {options.width}x{options.height}, median ms of {options.repeats} runs")
    print(f"{'clip':<18}{'frames':<8}" + "".join(f"{name:>15}" for name in METHODS))
    with tempfile.TemporaryDirectory() as folder:
        for label, (codec, suffix, codec_options) in CLIPS.items():
            path = Path(folder) / f"{codec}_{len(label)}.{suffix}"
            make_clip(path, codec, codec_options, count, options.height, options.width)
            for choice, indices in choices.items():
                medians = measure(path, indices, options.repeats)
                print(f"{label:<18}{choice:<8}" + "".join(f"{medians[name]:>15.1f}" for name in METHODS))
    print("all methods gave identical pixels")


if __name__ == "__main__":
    main()
