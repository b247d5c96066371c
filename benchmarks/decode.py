"""Time to read frames: this package's reader, decoding in sequence, decord, torchcodec, and seeking for every frame.

    python benchmarks/decode.py
    python benchmarks/decode.py --source real.mp4 --only 1080p --starts 8

Encodes clips of 300 frames into a temporary folder (`--keep` keeps them for the next time), runs the methods in
turn, from opening the file to RGB frames, and prints median milliseconds by the clock, in brackets those of
processor time, and how many times as long as ours each other method takes (median over rounds).

    spread  16 frames over the whole clip, as segment sampling takes them
    dense   16 frames 4 apart from random places, as dense sampling takes them; every round takes all places

`decode to last` decodes from the start and stops behind the last wanted frame; `decode all` goes on to the end, as
a caller must who does not know the number of frames. decord and torchcodec (0.13.0; it needs a system FFmpeg, Debian's
`ffmpeg` for instance) are measured where they can be imported; they convert colours in their own ways, so their frames
must only be near ours, while all others must be equal.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from emim.bench.measuring import interleaved, times_faster
from emim.data.video import open_video
from emim.environment import describe_machine

MISSING: list[str] = []
try:
    import decord
except ImportError as error:
    decord = None
    MISSING.append(f"decord is not measured: {error}")
try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, RuntimeError, OSError) as error:  # also where there is no FFmpeg that it can load
    VideoDecoder = None
    MISSING.append(f"torchcodec is not measured: {str(error).strip().splitlines()[0]}")

Frames = npt.NDArray[np.uint8]
Method = Callable[[Path, Sequence[int]], Frames]

FRAMES, WANTED, STRIDE = 300, 16, 4
# Mean difference of pixel values at which frames of a peer count as the same; neighbouring frames differ by more.
NEAR = 3.0
PEERS = ("decord", "torchcodec")


@dataclass(frozen=True)
class Clip:
    """A clip to encode, and the choices of frames to read from it."""

    name: str
    codec: str
    suffix: str
    height: int
    width: int
    options: dict[str, str]


VP9 = {"deadline": "good", "cpu-used": "5", "b": "500k"}
CLIPS = [
    Clip("h264 340x256", "libx264", "mp4", 256, 340, {}),
    Clip("vp9 340x256", "libvpx-vp9", "webm", 256, 340, VP9),
    Clip("h264 1080p", "libx264", "mp4", 1080, 1920, {}),
    Clip("h264 1080p, key per 30", "libx264", "mp4", 1080, 1920, {"x264-params": "keyint=30"}),
]


def generated_frames(height: int, width: int) -> Iterator[av.VideoFrame]:
    """A soft texture, panning, with two moving squares and a little noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 32 + 2, (width + 3 * FRAMES) // 32 + 3, 3), dtype=np.uint8)
    scene = av.VideoFrame.from_ndarray(coarse, format="rgb24")
    scene = scene.reformat(width=32 * coarse.shape[1], height=32 * coarse.shape[0], interpolation="BICUBIC")
    scene_HWC = scene.to_ndarray(format="rgb24")
    noise_HWC = rng.integers(0, 12, (height + 8, width + 8, 3), dtype=np.uint8)
    side = height // 6
    for t in range(FRAMES):
        view_HWC = scene_HWC[:height, 3 * t : 3 * t + width] // 2 + 30
        for speed, value in ((5, 220), (-3, 20)):
            left, top = (width // 2 + speed * t) % (width - side), (height // 2 + speed * t // 2) % (height - side)
            view_HWC[top : top + side, left : left + side] = value
        dy, dx = rng.integers(0, 8, 2)
        yield av.VideoFrame.from_ndarray(view_HWC + noise_HWC[dy : dy + height, dx : dx + width], format="rgb24")


def real_frames(source: Path, height: int, width: int) -> Iterator[av.VideoFrame]:
    """Frames of a video, over and over, scaled."""
    with av.open(str(source)) as container:
        kept = list(itertools.islice(container.decode(video=0), FRAMES))
    for frame in itertools.islice(itertools.cycle(kept), FRAMES):
        yield frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")


def make_clip(path: Path, clip: Clip, source: Path | None) -> None:
    frames = generated_frames(clip.height, clip.width) if source is None else real_frames(
        source, clip.height, clip.width
    )  # fmt: skip
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.codec, rate=30, options=clip.options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for t, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = t, Fraction(1, 30), 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_ours(path: Path, indices: Sequence[int]) -> Frames:
    with open_video(path) as reader:
        return reader.read(indices)


def decode_in_sequence(path: Path, indices: Sequence[int], *, to_end: bool, own_threads: bool) -> Frames:
    """Decode from the start; convert wanted frames."""
    wanted = set(indices)
    found: dict[int, Frames] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if not own_threads:
            stream.thread_type, stream.thread_count = "NONE", 1
        for t, frame in enumerate(container.decode(stream)):
            if t in wanted:
                found[t] = frame.to_ndarray(format="rgb24")
                if not to_end and len(found) == len(wanted):
                    break
    return np.stack([found[t] for t in indices])


def read_decord(path: Path, indices: Sequence[int], *, own_threads: bool) -> Frames:
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=0 if own_threads else 1)
    return reader.get_batch(list(indices)).asnumpy()


def read_torchcodec(path: Path, indices: Sequence[int], *, own_threads: bool) -> Frames:
    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=0 if own_threads else 1)
    return decoder.get_frames_at(list(indices)).data.numpy()


def read_seek_each(path: Path, indices: Sequence[int]) -> Frames:
    """Seek to the key frame before each wanted frame and decode up to it."""
    frames: list[Frames] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        stamps = sorted(p.pts for p in container.demux(stream) if p.size and p.pts is not None)
        for index in indices:
            container.seek(stamps[index], stream=stream)
            for frame in container.decode(stream):
                if frame.pts == stamps[index]:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(frames)


def methods(options: argparse.Namespace) -> dict[str, Method]:
    own = options.own_threads
    chosen: dict[str, Method] = {
        "emim": read_ours,
        "decode to last": lambda path, indices: decode_in_sequence(path, indices, to_end=False, own_threads=own),
    }
    if options.all:
        chosen["decode all"] = lambda path, indices: decode_in_sequence(path, indices, to_end=True, own_threads=own)
        chosen["seek for each"] = read_seek_each
    if decord is not None:
        chosen["decord"] = lambda path, indices: read_decord(path, indices, own_threads=own)
    if VideoDecoder is not None:
        chosen["torchcodec"] = lambda path, indices: read_torchcodec(path, indices, own_threads=own)
    return chosen


def usable(chosen: dict[str, Method], path: Path, indices: Sequence[int]) -> dict[str, Method]:
    """Check every method's frames; leave out, with the reason, a peer that cannot read the file."""
    truth_THWC = decode_in_sequence(path, indices, to_end=True, own_threads=False)
    found = dict(chosen)
    for name, method in chosen.items():
        try:
            frames_THWC = method(path, indices)
        except RuntimeError as error:  # the error class of both peers is one
            if name not in PEERS:
                raise
            print(f"{path.name}: {name} fails: {str(error).splitlines()[0]}")
            del found[name]
            continue
        away = float(np.abs(frames_THWC.astype(np.int16) - truth_THWC).mean())
        if away > (NEAR if name in PEERS else 0):
            raise SystemExit(f"{name} gives other pixels than a full decode on {path.name}: {away:.2f} away on average")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="video whose frames are encoded (default: a generated scene)")
    parser.add_argument("--only", default="", help="clips whose name holds this")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--starts", type=int, default=5, help="random places of dense clips")
    parser.add_argument("--all", action="store_true", help="also decode to the end, and seek for each frame")
    parser.add_argument("--own-threads", action="store_true", help="let the others use threads as they like, not one")
    parser.add_argument("--keep", type=Path, help="folder to keep the encoded clips in")
    options = parser.parse_args()

    print(describe_machine().line())
    print("threads: one for emim, " + ("the others as they like" if options.own_threads else "one for the others"))
    for line in MISSING:
        print(line)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for clip in CLIPS:
            if options.only in clip.name:
                path = folder / f"{clip.name.replace(' ', '_').replace(',', '')}.{clip.suffix}"
                if not path.exists():
                    make_clip(path, clip, options.source)
                compare(clip, path, options)


def compare(clip: Clip, path: Path, options: argparse.Namespace) -> None:
    starts = np.random.default_rng(0).integers(0, FRAMES - STRIDE * (WANTED - 1), options.starts)
    spread = [int((i + 0.5) * FRAMES / WANTED) for i in range(WANTED)]
    dense = [[int(start) + STRIDE * i for i in range(WANTED)] for start in starts]
    for label, choices in (("spread", [spread]), ("dense", dense)):
        chosen = methods(options)
        for indices in choices:
            chosen = usable(chosen, path, indices)
        jobs = {name: _reads(method, path, choices) for name, method in chosen.items()}
        timings = interleaved(jobs, options.repeats, warmup=0)
        parts = []
        for name, timing in timings.items():
            clock, processor = timing.median_ms / len(choices), timing.cpu_median_ms / len(choices)
            parts.append(f"{name} {clock:.1f} ({processor:.1f})")
            if name != "emim":
                parts[-1] += f" {times_faster(timings['emim'], timing):.2f}x"
                parts[-1] += f" ({timing.cpu_median_ms / timings['emim'].cpu_median_ms:.2f}x)"
        print(f"{clip.name:<24}{label:<8}" + "   ".join(parts), flush=True)


def _reads(method: Method, path: Path, choices: list[list[int]]) -> Callable[[], object]:
    return lambda: [method(path, indices) for indices in choices]


if __name__ == "__main__":
    main()
