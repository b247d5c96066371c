"""Measure the loading of training clips: rate, time of each stage, and the best number of workers.

Two measurements on the data set's own clips, with one thread per process. The stages of one clip are timed one by
one in this process. The whole loader is timed over the same clips for several numbers of workers, which take turns.
Files lie in the operating system's cache by then, so a slow disk does not show.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from emim.bench.measuring import interleaved, quartiles
from emim.data.augment.transforms import AugmentOptions
from emim.data.dataset import TrainClips
from emim.data.loader import ClipLoader, EpochBatches
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing, train_indices
from emim.data.video import open_video
from emim.environment import Machine, describe_machine, usable_cores
from emim.errors import ConfigError

__all__ = ["STAGES", "LoaderRate", "LoaderReport", "StageTime", "bench_loader", "default_worker_counts"]

STAGES = ("open", "decode", "transform", "collate")
"""open: open the file and index its packets; decode: the wanted frames to RGB; transform: crop, augment, normalise;
collate: stack a batch, per clip."""

_STAGE_WORDS = {
    "open": "opening the files",
    "decode": "decoding",
    "transform": "the transforms",
    "collate": "stacking the batches",
}
_WARM_UP_CLIPS = 2
# Fewer workers are enough where they reach this share of the best rate.
_NEARLY_BEST = 0.95
# Below this share of what its workers could do side by side, a loader does not grow with them.
_GROWS = 0.7


@dataclass(frozen=True)
class StageTime:
    """Time of one stage for one clip.

    Attributes:
        name: one of `STAGES`.
        median_ms: median over clips.
        quartiles_ms: lower and upper quartile over clips.
        share: of the time of all stages, summed over clips.
    """

    name: str
    median_ms: float
    quartiles_ms: tuple[float, float]
    share: float


@dataclass(frozen=True)
class LoaderRate:
    """Rate of the whole loader with a number of workers.

    Attributes:
        workers: loader processes; 0 loads in the main process.
        clips_per_second: median over repeats.
        quartiles: lower and upper quartile over repeats, in clips per second.
    """

    workers: int
    clips_per_second: float
    quartiles: tuple[float, float]


@dataclass(frozen=True)
class LoaderReport:
    """Result of `bench_loader`.

    Attributes:
        stages: in the order of the work.
        clip_ms: mean milliseconds of all stages of one clip.
        rates: one per number of workers, ascending.
        best_workers: the fewest workers that come near the best rate; 0, with which training waits for every clip,
            only where nothing else was measured.
        bound: the stage that takes the largest share.
        grows: whether the best rate is near what its workers could do side by side.
        step_ms: time of a training step per clip that was asked about, or None.
        keeps_up: whether the best rate is at least that of the training steps; None without `step_ms`.
        clips, repeats, warm_up_clips, batch_size: how it was measured; the loader's warm-up is one whole pass.
        machine: where.
    """

    stages: tuple[StageTime, ...]
    clip_ms: float
    rates: tuple[LoaderRate, ...]
    best_workers: int
    bound: str
    grows: bool
    step_ms: float | None
    keeps_up: bool | None
    clips: int
    repeats: int
    warm_up_clips: int
    batch_size: int
    machine: Machine

    def best(self) -> LoaderRate:
        """The rate with `best_workers`."""
        return next(rate for rate in self.rates if rate.workers == self.best_workers)

    def verdict(self) -> list[str]:
        """Interpret the result in sentences."""
        best, cores = self.best(), self.machine.cores
        largest = next(stage for stage in self.stages if stage.name == self.bound)
        lines = [f"A clip takes {self.clip_ms:.1f} ms on one core; {_STAGE_WORDS[self.bound]}: {largest.share:.0%}."]
        use = f"Use {_count(best.workers, 'worker')}: {best.clips_per_second:.1f} clips/s."
        if self.grows and best.workers >= cores:
            lines.append(f"{use} All {_count(cores, 'core')} are busy: cores bound it, and of their work {self.bound}.")
        elif self.grows and best.workers == max(rate.workers for rate in self.rates):
            lines.append(f"{use} It grows with the workers; try more, up to {_count(cores, 'core')}.")
        else:
            lines.append(
                f"{use} More bring little: the cores are busy with other work, or the processes share something else, "
                "such as memory or a disk."
            )
        if self.step_ms is not None:
            needed = 1e3 / self.step_ms
            lines.append(
                f"Training steps of {self.step_ms:g} ms per clip take {needed:.1f} clips/s: the loader "
                + ("keeps up." if self.keeps_up else f"is {needed / best.clips_per_second:.1f} times too slow.")
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict()}


def bench_loader(
    clip_list: ClipList,
    preprocessing: Preprocessing,
    augment: AugmentOptions,
    *,
    clips: int = 64,
    workers: Sequence[int] | None = None,
    batch_size: int = 8,
    repeats: int = 3,
    step_ms: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoaderReport:
    """Measure the loading of training clips, without a cache of decoded frames.

    Args:
        clip_list: the data set.
        preprocessing: as in training.
        augment: as in training.
        clips: how many clips to measure on, chosen at random; small data sets are gone round.
        workers: numbers of loader processes; default 0, 1, 2, 4, ... up to the number of cores.
        batch_size: clips per batch, at most `clips`.
        repeats: timed passes over the clips for each number of workers.
        step_ms: milliseconds of a training step divided by its clips, to be told whether the loader keeps up.
        seed: seed of the choice of clips and of every draw.
        progress: called with (passes done, passes in all).

    Raises:
        ConfigError: an option is out of range.
        VideoError: a clip cannot be read.
    """
    counts = sorted(set(default_worker_counts() if workers is None else workers))
    if not counts or min(counts) < 0 or clips < 1 or repeats < 1 or not 1 <= batch_size <= clips:
        raise ConfigError(
            f"clips ({clips}), repeats ({repeats}) and batch size ({batch_size}) must be at least 1, the batch size at "
            f"most clips, and workers at least 0, got {list(counts)}"
        )
    if step_ms is not None and not step_ms > 0:
        raise ConfigError(f"step_ms must be above 0, got {step_ms}")
    chosen = _choose(clip_list, clips, seed)
    data_set = TrainClips(chosen, preprocessing, augment, seed)
    passes = 1 + (1 + repeats) * len(counts)
    with _one_thread():
        stages, clip_ms = _time_stages(data_set, batch_size)
        progress(1, passes)
        rates = _time_loaders(data_set, counts, batch_size, repeats, lambda done: progress(1 + done, passes))
    return _report(stages, clip_ms, rates, clips, repeats, batch_size, step_ms)


def default_worker_counts() -> list[int]:
    """0, 1, 2, 4, ... and the number of cores."""
    cores = usable_cores()
    return sorted({0, cores} | {1 << power for power in range(cores.bit_length()) if 1 << power <= cores})


def _choose(clip_list: ClipList, count: int, seed: int) -> ClipList:
    """`count` entries at random; every clip once before any comes again."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(clip_list))
    order = np.concatenate([rng.permutation(len(clip_list)) for _ in range(rounds)])[:count]
    return dataclasses.replace(clip_list, entries=tuple(clip_list.entries[i] for i in order))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _time_stages(data_set: TrainClips, batch_size: int) -> tuple[tuple[StageTime, ...], float]:
    """The stages over all clips, and the mean sum of a clip."""
    for index in range(min(_WARM_UP_CLIPS, len(data_set))):
        data_set[index]
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    batch: list[Any] = []
    for index in range(len(data_set)):
        spent, item = _stages_of(data_set, index)
        for name, milliseconds in spent.items():
            times[name].append(milliseconds)
        batch.append(item)
        if len(batch) == batch_size or index == len(data_set) - 1:
            start = time.perf_counter()
            default_collate(batch)
            times["collate"] += [1e3 * (time.perf_counter() - start) / len(batch)] * len(batch)
            batch = []
    total = sum(map(sum, times.values()))
    stages = (
        StageTime(name, statistics.median(values), quartiles(values), sum(values) / total)
        for name, values in times.items()
    )
    return tuple(stages), total / len(data_set)


def _stages_of(data_set: TrainClips, index: int) -> tuple[dict[str, float], Any]:
    """One item as `TrainClips` makes it, with the milliseconds of its stages."""
    entry, pre = data_set.clip_list.entries[index], data_set.preprocessing
    rng = np.random.default_rng((data_set.seed, 0, index))
    started = time.perf_counter()
    with open_video(entry.path) as reader:
        first, stop = entry.frame_range(reader.num_frames, reader.fps)
        positions = train_indices(pre, stop - first, reader.fps, rng)
        opened = time.perf_counter()
        frames_THWC = reader.read((positions + first).tolist())
    decoded = time.perf_counter()
    clip_CTHW, label = data_set.transform(frames_THWC, entry.label, rng)
    transformed = time.perf_counter()
    spent = {"open": opened - started, "decode": decoded - opened, "transform": transformed - decoded}
    item = {"clip": clip_CTHW, "label": label, "index": index}
    return {name: 1e3 * seconds for name, seconds in spent.items()}, item


def _time_loaders(
    data_set: TrainClips, counts: Sequence[int], batch_size: int, repeats: int, progress: Callable[[int], None]
) -> tuple[LoaderRate, ...]:
    """Whole passes with each number of workers, in turn; a first pass starts the workers and does not count."""
    loaders = {count: _make_loader(data_set, count, batch_size) for count in counts}
    loaded = dict.fromkeys(counts, 0)
    done = 0

    def load_all(count: int) -> None:
        nonlocal done
        loaded[count] = sum(len(batch["label"]) for batch in loaders[count])
        done += 1
        progress(done)

    jobs = {str(count): functools.partial(load_all, count) for count in counts}
    timings = interleaved(jobs, repeats, warmup=1)
    rates = []
    for count in counts:
        per_second = [1e3 * loaded[count] / milliseconds for milliseconds in timings[str(count)].wall_ms]
        rates.append(LoaderRate(count, statistics.median(per_second), quartiles(per_second)))
    return tuple(rates)


def _make_loader(data_set: TrainClips, workers: int, batch_size: int) -> ClipLoader:
    batches = EpochBatches(len(data_set), batch_size, data_set.seed)
    return ClipLoader(data_set, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)


def _report(
    stages: tuple[StageTime, ...],
    clip_ms: float,
    rates: tuple[LoaderRate, ...],
    clips: int,
    repeats: int,
    batch_size: int,
    step_ms: float | None,
) -> LoaderReport:
    machine = describe_machine()
    in_background = [rate for rate in rates if rate.workers > 0] or list(rates)
    top = max(rate.clips_per_second for rate in in_background)
    best = next(rate for rate in in_background if rate.clips_per_second >= _NEARLY_BEST * top)
    side_by_side = min(max(best.workers, 1), machine.cores)
    one = next((rate.clips_per_second for rate in rates if rate.workers == 1), 1e3 / clip_ms)
    return LoaderReport(
        stages=stages,
        clip_ms=clip_ms,
        rates=rates,
        best_workers=best.workers,
        bound=max(stages, key=lambda stage: stage.share).name,
        grows=best.clips_per_second >= _GROWS * side_by_side * one,
        step_ms=step_ms,
        keeps_up=None if step_ms is None else best.clips_per_second >= 1e3 / step_ms,
        clips=clips,
        repeats=repeats,
        warm_up_clips=min(_WARM_UP_CLIPS, clips),
        batch_size=batch_size,
        machine=machine,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
