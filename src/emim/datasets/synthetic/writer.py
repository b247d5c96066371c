"""Write generated clips as mp4 files with one manifest per split."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import torch

from emim.datasets.synthetic.classes import CLASSES, ClipOptions
from emim.datasets.synthetic.render import RenderedClip, render_clip
from emim.errors import ConfigError, DataError

__all__ = ["DatasetSummary", "write_clip", "write_dataset"]

_FORMAT = 4  # raise when the same parameters would give other clips
_DESCRIPTION = "dataset.json"
_CHUNK = 8


@dataclass(frozen=True)
class DatasetSummary:
    """Content of a generated data set.

    Attributes:
        root: its folder.
        manifests: the CSV file (`path,label`, paths relative to it) of each split.
        clips: number of clips in each split.
        reused: True if the data set existed already, with the same parameters.
    """

    root: Path
    manifests: dict[str, Path]
    clips: dict[str, int]
    reused: bool


@dataclass(frozen=True)
class _Task:
    path: Path
    label: str
    seed: int
    crf: int
    options: ClipOptions


def write_dataset(
    root: Path | str,
    *,
    splits: Mapping[str, int],
    seed: int = 0,
    options: ClipOptions | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetSummary:
    """Write `root/<split>/<class>/<class>_00000.mp4` and `root/<split>.csv`, all or nothing.

    Clips are h264, yuv420p. A clip depends on `seed`, the split's name, the class and the index only: not on
    the number of workers, the other splits, or the number of clips. With several
    workers the calling script needs the usual `if __name__ == "__main__"` guard.

    Args:
        root: folder to create. A finished data set of the same parameters is kept as it is.
        splits: clips per class for each split, for example `{"train": 40, "test": 12}`.
        seed: a whole number, at least 0.
        options: size, length and make-up of the clips; the default is `ClipOptions()`.
        workers: processes.
        progress: called with (clips done, clips in all) as they are finished.

    Raises:
        ConfigError: no split, a split name that is no plain folder name, or a number out of range.
        DataError: `root` holds something else, or a data set of other parameters, or lacks files.
    """
    root = Path(root)
    options = options or ClipOptions()
    _check(splits, seed, workers)
    description = {
        "format": _FORMAT,
        "seed": seed,
        "splits": dict(splits),
        "classes": list(CLASSES),
        "options": asdict(options),
    }
    manifests = {split: root / f"{split}.csv" for split in splits}
    counts = {split: number * len(CLASSES) for split, number in splits.items()}
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        _check_same(root, description)
        return DatasetSummary(root, manifests, counts, reused=True)

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / "data"
        tasks = list(_plan(draft, splits, seed, options))
        for folder in sorted({task.path.parent for task in tasks}):
            folder.mkdir(parents=True)
        for done, _ in enumerate(_run(tasks, workers), start=1):
            if progress is not None:
                progress(done, len(tasks))
        for split in splits:
            _write_manifest(draft, split, [task for task in tasks if task.path.parts[-3] == split])
        (draft / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            root.rmdir()  # empty, as seen above
        shutil.move(draft, root)
    return DatasetSummary(root, manifests, counts, reused=False)


def write_clip(path: Path | str, clip: RenderedClip, *, crf: int = 20) -> None:
    """Encode a clip as h264.

    Args:
        path: the file to write.
        clip: frames of even height and width.
        crf: quality of libx264, 0 (lossless) to 51.
    """
    height, width = clip.frames_THWC.shape[1:3]
    with av.open(str(path), "w") as container:
        # Not all builds of x264 give the same bytes twice with several threads, or (with AVX-512) with
        # macroblock trees; without both they do.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=clip.fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame_HWC in clip.frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def _check(splits: Mapping[str, int], seed: int, workers: int) -> None:
    if not splits:
        raise ConfigError("splits is empty: give at least one, for example {'train': 40, 'test': 12}")
    for split, number in splits.items():
        if not split.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"split name {split!r}: use letters, digits, '-' and '_'")
        if number < 1:
            raise ConfigError(f"{number} clips per class in split {split!r}: give at least 1")
    if seed < 0:
        raise ConfigError(f"seed={seed}: give a whole number, at least 0")
    if workers < 1:
        raise ConfigError(f"workers={workers}: give at least 1")


def _check_same(root: Path, description: dict[str, object]) -> None:
    try:
        found = json.loads((root / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{root}: holds other things than a generated data set; name a folder that is new or empty"
        ) from None
    if found != description:
        keys = found if isinstance(found, dict) else {}
        other = [key for key, value in description.items() if keys.get(key) != value]
        raise DataError(f"{root}: holds a data set generated with other {', '.join(other)}; remove it or name another")
    for split in description["splits"] if isinstance(description["splits"], dict) else ():
        manifest = root / f"{split}.csv"
        rows = csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()) if manifest.exists() else None
        missing = (
            manifest if rows is None else next((r["path"] for r in rows if not (root / r["path"]).is_file()), None)
        )
        if missing is not None:
            raise DataError(f"{root}: {missing} is missing; remove the folder and generate it again")


def _plan(root: Path, splits: Mapping[str, int], seed: int, options: ClipOptions) -> Iterator[_Task]:
    for split, number in splits.items():
        for class_index, label in enumerate(CLASSES):
            for index in range(number):
                entropy = [seed, int.from_bytes(split.encode(), "big"), class_index, index]
                sequence = np.random.SeedSequence(entropy)
                words = sequence.generate_state(3, np.uint64)
                yield _Task(
                    path=root / split / label / f"{label}_{index:05d}.mp4",
                    label=label,
                    seed=int(words[0]) << 64 | int(words[1]),
                    crf=18 + int(words[2] % 13) if options.vary else 20,
                    options=options,
                )


def _run(tasks: list[_Task], workers: int) -> Iterable[None]:
    if workers == 1:
        yield from map(_write_task, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(_write_task, tasks, chunksize=_CHUNK)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _write_task(task: _Task) -> None:
    write_clip(task.path, render_clip(task.label, seed=task.seed, options=task.options), crf=task.crf)


def _write_manifest(root: Path, split: str, tasks: list[_Task]) -> None:
    with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label"))
        writer.writerows((task.path.relative_to(root).as_posix(), task.label) for task in tasks)
