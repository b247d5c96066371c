"""Re-encode the videos of a list to a small size, so that training decodes less.

Every distinct video becomes a file below `out`, at its path relative to the list's root (videos from elsewhere:
below `out/_outside`, at their absolute path):

- A video file whose short side is above the wanted one: h264 in mp4, a key frame at least every second, no sound.
  Aspect, number of frames and time stamps are kept; frames are stored upright, with square pixels. `b.avi` becomes
  `b.avi.mp4`.
- A video file that is small enough already: a copy of the file as it is, under its own name.
- A folder of frames: an mp4 at 30 frames per second, as the reader assumes for folders, scaled down if it is larger.
  `shot` becomes `shot.mp4`.

Sides are even numbers, so the other side may be off by a pixel. A new file appears whole, after its number of
frames and the pixels of a few of them have been compared with the original, or not at all.

`out/reencoded.json` records the original of each file, its state (size and time of change) and the settings: files
that are up to date are not made again. Several lists may share one `out`.

Shapes: T frames, H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from emim.data.manifest import ClipList, relative_path
from emim.data.video import VideoFileReader, VideoReader, open_video
from emim.data.video.clip_source import Frames
from emim.data.video.frame_folder import list_frames
from emim.data.video.full_decode import FullDecode
from emim.data.video.geometry import as_array, scaled
from emim.datasets.video_check import loss_finding
from emim.errors import ConfigError, DataError, EmimError, VideoError
from emim.isolation import WorkerLoss, run_isolated
from emim.utils import atomic_write

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["INDEX_NAME", "ReencodeResult", "check_short_side", "reencode"]

INDEX_NAME = "reencoded.json"

_FORMAT = 2  # raise when the same settings would give other files
_ENCODER: Final = "libx264"
_CRF = 20
_PRESET = "veryfast"
_MIN_SIDE = 16
_OUTSIDE = "_outside"
# Luma of the new file against the original scaled the same way. crf 20 gives 32 dB or more, another frame of a
# video that moves less than 25.
_MIN_PSNR = 28.0
_COMPARED_FRAMES = 3
_INDEX_SECONDS = 2.0


@dataclass(frozen=True)
class ReencodeResult:
    """Result of `reencode`.

    Attributes:
        clip_list: the entries in their order, pointing at the new files; those of failed videos are left out.
        failed: the original and the reason, for each video that could not be re-encoded.
        reused: videos whose file from an earlier run still stands.
        encoded: videos encoded now.
        copied: videos copied now, being small enough.
    """

    clip_list: ClipList
    failed: tuple[tuple[Path, str], ...]
    reused: int
    encoded: int
    copied: int


@dataclass(frozen=True)
class _Task:
    source: Path
    copy: Path
    encoded: Path
    short_side: int


@dataclass(frozen=True)
class _Done:
    target: Path
    is_copy: bool


def reencode(
    clip_list: ClipList,
    out: Path,
    short_side: int,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> ReencodeResult:
    """Re-encode each distinct video of a list (rules: see the module's docstring).

    Originals are never changed. A run that was interrupted goes on where it stopped. The calling script needs
    the usual `if __name__ == "__main__"` guard.

    Args:
        clip_list: the clips; start and end of its entries stay as they are.
        out: folder to write; new, empty, or of an earlier run.
        short_side: pixels of the short side of the new files, even; nothing is scaled up.
        workers: processes, each of one thread.
        progress: called with (videos done, videos in all).

    Raises:
        ConfigError: `short_side` is odd or below 16, or `workers` is below 1.
        DataError: `out` holds other things, would overwrite originals, or cannot be written; or FFmpeg was
            built without libx264.
    """
    check_short_side(short_side)
    if _ENCODER not in av.codecs_available:
        raise DataError(
            f"this PyAV's FFmpeg has no {_ENCODER} encoder; install PyAV's own wheel: pip install --force-reinstall av"
        )
    out = Path(out)
    index = _Index(out)
    tasks = _plan(clip_list, out, short_side)
    made: dict[Path, Path] = {}
    failed: dict[Path, str] = {}
    stamps: dict[Path, list[int]] = {}
    todo: list[_Task] = []
    for task in tasks:
        try:
            stamps[task.source] = _stamp(task.source)
        except OSError as error:
            failed[task.source] = f"cannot be read ({error.strerror}); check the path"
            continue
        target = index.find(task, stamps[task.source])
        if target is None:
            todo.append(task)
        else:
            made[task.source] = target
    reused, copied = len(made), 0
    if progress is not None:
        progress(len(tasks) - len(todo), len(tasks))
    with index.saving():
        for position, outcome in run_isolated(_make, todo, workers=workers):
            task = todo[position]
            if isinstance(outcome, _Done):
                made[task.source] = outcome.target
                copied += outcome.is_copy
                index.add(task, stamps[task.source], outcome.target)
            else:
                failed[task.source] = loss_finding(outcome).reason if isinstance(outcome, WorkerLoss) else outcome
                _remove_remains(task)
            if progress is not None:
                progress(len(made) + len(failed), len(tasks))
    entries = tuple(replace(entry, path=made[entry.path]) for entry in clip_list if entry.path in made)
    new_list = replace(clip_list, entries=entries, source=out)
    listed = tuple((task.source, failed[task.source]) for task in tasks if task.source in failed)
    return ReencodeResult(new_list, listed, reused, len(made) - reused - copied, copied)


def check_short_side(short_side: int) -> None:
    """Raise ConfigError for a short side that videos cannot be re-encoded to."""
    if short_side < _MIN_SIDE or short_side % 2:
        raise ConfigError(f"a short side of {short_side} pixels: give an even number, at least {_MIN_SIDE}")


# --- places of files, and files of earlier runs ----------------------------------------------------


def _plan(clip_list: ClipList, out: Path, short_side: int) -> list[_Task]:
    sources = list(dict.fromkeys(entry.path for entry in clip_list))
    originals = {os.path.abspath(source) for source in sources}  # noqa: PTH100 keeps links
    taken: set[Path] = set()
    tasks: list[_Task] = []
    for source in sources:
        relative = Path(relative_path(source, clip_list.root))
        if relative.is_absolute():
            relative = Path(_OUTSIDE, *relative.parts[1:])
        copy = out / relative
        encoded = copy if copy.suffix.lower() == ".mp4" else copy.with_name(copy.name + ".mp4")
        if {copy, encoded} & taken:  # "b.avi" beside "b.avi.mp4"
            code = hashlib.sha256(str(relative).encode("utf-8", "surrogateescape")).hexdigest()[:8]
            copy = copy.with_name(f"{copy.stem}-{code}{copy.suffix}")
            encoded = copy.with_name(f"{copy.stem}-{code}.mp4")
        taken |= {copy, encoded}
        for target in (copy, encoded):
            if os.path.abspath(target) in originals:  # noqa: PTH100
                raise DataError(f"{out}: {target.name} would overwrite an original; name another folder")
        tasks.append(_Task(source, copy, encoded, short_side))
    return tasks


def _stamp(source: Path) -> list[int]:
    """Size and time of change of a file; of the frames of a folder together."""
    if not source.is_dir():
        stat = source.stat()
        return [1, stat.st_size, stat.st_mtime_ns]
    stats = [file.stat() for file in list_frames(source)]
    return [len(stats), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]


def _remove_remains(task: _Task) -> None:
    """A process that was killed leaves the temporary file of `atomic_write` behind."""
    for target in (task.copy, task.encoded):
        for file in target.parent.glob(f".{_escaped(target.name)}.*.tmp"):
            file.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


class _Index:
    """`reencoded.json`: the original and settings of every file."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out / INDEX_NAME
        self._files: dict[str, dict[str, Any]] = {}
        self._saved = 0.0
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not self._path.exists())):
            raise DataError(f"{out}: holds other things than re-encoded videos; name a folder that is new or empty")
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text(encoding="utf-8"))
                self._files = dict(content["files"])
            except (OSError, ValueError, KeyError, TypeError):
                raise DataError(f"{self._path}: not readable; remove the folder {out} and start again") from None

    def find(self, task: _Task, stamp: list[int]) -> Path | None:
        """The file made of this state of the original with these settings, if it still stands."""
        record = self._files.get(str(task.source.absolute()))
        if record is None or record.get("stamp") != stamp or record.get("settings") != _settings(task):
            return None
        target = self._out / str(record.get("file"))
        if target not in (task.copy, task.encoded):
            return None
        try:
            return target if target.stat().st_size == record.get("size") else None
        except OSError:
            return None

    def add(self, task: _Task, stamp: list[int], target: Path) -> None:
        self._files[str(task.source.absolute())] = {
            "file": target.relative_to(self._out).as_posix(),
            "size": target.stat().st_size,
            "stamp": stamp,
            "settings": _settings(task),
        }
        if time.monotonic() - self._saved > _INDEX_SECONDS:
            self._save()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """The index is on disk from the start, which marks the folder as ours, and complete at the end."""
        self._save()
        try:
            yield
        finally:
            self._save()

    def _save(self) -> None:
        try:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps({"files": self._files}, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written ({error.strerror})") from error
        self._saved = time.monotonic()


def _settings(task: _Task) -> list[int | str]:
    return [_FORMAT, task.short_side, _CRF, _PRESET]


# --- one video, in a process of its own ------------------------------------------------------------


def _make(task: _Task) -> _Done | str:
    """Make the new file of one video; the reason in words where that fails."""
    try:
        with open_video(task.source, min_frames=1) as reader:
            if task.source.is_file() and min(reader.height, reader.width) <= task.short_side:
                with atomic_write(task.copy) as temporary:
                    shutil.copyfile(task.source, temporary)
                return _Done(task.copy, True)
            with atomic_write(task.encoded) as temporary:
                _encode(reader, temporary, task.short_side)
                _verify(reader, temporary)
            return _Done(task.encoded, False)
    except VideoError as error:
        return error.reason
    except (EmimError, av.FFmpegError, OSError) as error:
        return f"cannot be re-encoded: {error}"


def _size(reader: VideoReader, short_side: int) -> tuple[int, int]:
    """Height and width of the new file: even, and not above the original's."""
    scale = min(1.0, short_side / min(reader.height, reader.width))
    height, width = (max(2, min(round(side * scale / 2), side // 2) * 2) for side in (reader.height, reader.width))
    return height, width


def _encode(reader: VideoReader, target: Path, short_side: int) -> None:
    height, width = _size(reader, short_side)
    rate = Fraction(reader.fps).limit_denominator(1001)
    options = {"crf": str(_CRF), "preset": _PRESET, "threads": "1"}
    even = _even_step(reader)
    count = 0
    durations: dict[int | None, int | None] = {}
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(_ENCODER, rate=max(rate, Fraction(1, 1001)), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.gop_size = max(1, math.floor(reader.fps))
        for small in _scaled_frames(reader, height, width):
            if not count and small.time_base is not None:
                context.time_base = small.time_base
                if small.time_base != even:
                    context.max_b_frames = 0  # in mp4 they blur which frame has which duration
            durations[small.pts] = small.duration
            count += 1
            _mux(container, stream.encode(small), durations)
        _mux(container, stream.encode(None), durations)
    if count != reader.num_frames:
        raise VideoError(
            reader.path,
            f"announces {reader.num_frames} frames, but {count} decode; copy the file again or re-encode it",
        )


def _mux(
    container: OutputContainer, packets: list[Packet[VideoStream]], durations: dict[int | None, int | None]
) -> None:
    for packet in packets:
        # The encoder forgets durations; that of the last frame is part of the video's.
        packet.duration = durations.pop(packet.pts, None) or 0
        container.mux(packet)


def _scaled_frames(reader: VideoReader, height: int, width: int) -> Iterator[VideoFrame]:
    """All frames, scaled and upright, stamped from 0 as the original is, or evenly where it is not."""
    even = _even_step(reader)
    if not isinstance(reader, VideoFileReader):
        for number in range(reader.num_frames):
            yield _stamped(scaled(reader.read([number])[0], height, width), number, 1, even)
        return
    decode = FullDecode(reader.path)
    reformatter = VideoReformatter()
    start, last, is_even = 0, -1, True
    stored_size: tuple[int, int] | None = None
    orientation = reader.orientation
    side_x, side_y = (height, width) if orientation.transposed else (width, height)
    for number, frame in enumerate(decode):
        if stored_size is None:
            stored_size, start, is_even = (frame.height, frame.width), frame.pts or 0, _are_even(decode, even)
        if (frame.height, frame.width) != stored_size:
            raise VideoError(reader.path, f"frame {number} has another size than frame 0; re-encode it by hand")
        if frame.interlaced_frame:  # FFmpeg would scale its fields one by one; the reader knows whole frames only
            small_HWC = scaled(as_array(reformatter.reformat(frame, format="rgb24", threads=1)), side_y, side_x)
        else:
            small = reformatter.reformat(frame, side_x, side_y, "rgb24", interpolation="BICUBIC", threads=1)
            small_HWC = as_array(small)
        upright_HWC = orientation.apply(small_HWC)
        if is_even:
            yield _stamped(upright_HWC, number, 1, even)
            continue
        last = max(last + 1, -1 if frame.pts is None else frame.pts - start)  # an encoder takes ascending stamps only
        yield _stamped(upright_HWC, last, frame.duration or 0, decode.time_base)


def _even_step(reader: VideoReader) -> Fraction:
    """Seconds from frame to frame where these are evenly spaced."""
    return 1 / Fraction(reader.fps).limit_denominator(90_000)


def _are_even(decode: FullDecode, step: Fraction) -> bool:
    """True if frames are evenly spaced, up to rounding of their time stamps, or if nothing is known about that."""
    if decode.stamps is None or decode.time_base == 0:
        return True
    ticks = float(step / decode.time_base)
    first = decode.stamps[0]
    return all(abs(stamp - first - ticks * number) <= 1 for number, stamp in enumerate(decode.stamps))


def _stamped(frame_HWC: Frames, pts: int, duration: int, time_base: Fraction) -> VideoFrame:
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    frame = rgb.reformat(format="yuv420p", threads=1)
    frame.pts, frame.time_base = pts, time_base
    frame.duration = duration
    return frame


def _verify(reader: VideoReader, target: Path) -> None:
    """Compare the new file with its original.

    Raises:
        VideoError: number or size of the frames differ, or a frame looks different.
    """
    with open_video(target, min_frames=1) as new:
        if new.num_frames != reader.num_frames:
            raise VideoError(
                reader.path, f"has {reader.num_frames} frames, but {new.num_frames} after encoding; report this video"
            )
        last = reader.num_frames - 1
        for number in sorted({round(last * k / (_COMPARED_FRAMES - 1)) for k in range(_COMPARED_FRAMES)}):
            quality = _psnr(scaled(reader.read([number])[0], new.height, new.width), new.read([number])[0])
            if quality < _MIN_PSNR:
                raise VideoError(
                    reader.path,
                    f"frame {number} looks different after encoding ({quality:.1f} dB, at least {_MIN_PSNR:g} "
                    "expected); the original may be damaged: play it, and leave it out or re-encode it by hand",
                )


def _psnr(one_HWC: Frames, other_HWC: Frames) -> float:
    """Peak signal-to-noise ratio of the luma, in dB."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    error = float(np.mean(np.square((one_HWC.astype(np.float32) - other_HWC.astype(np.float32)) @ weights)))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
