"""Measure how fast many videos are predicted, what bounds it, and the memory of a long run."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emim.bench.measuring import interleaved, quartiles
from emim.cli.console import give_result, print_table, progress_bar, say
from emim.cli.options import NATURAL, POSITIVE, add_result_options
from emim.data.prefetch import read_views
from emim.environment import Machine, describe_machine, let_waiting_threads_sleep
from emim.errors import ConfigError, VideoError
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import VideoScorer, auto_batch_size, auto_workers
from running import run_script

_MIB = 2**20


@dataclass(frozen=True)
class TreeMemory:
    """Memory of several processes together, in MiB.

    Attributes:
        pss: pages that processes share count once, divided among them.
        rss: pages that processes share count in each of them.
    """

    pss: float
    rss: float


def tree_memory() -> TreeMemory | None:
    """This process and its living children of `multiprocessing`, loader workers among them; None without /proc."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    totals = {"Pss:": 0, "Rss:": 0}
    for process in (os.getpid(), *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            if process == os.getpid():
                return None
            continue  # it has just ended
        for line in lines:
            name, *numbers = line.split()
            if name in totals:
                totals[name] += 1024 * int(numbers[0])
    return TreeMemory(totals["Pss:"] / _MIB, totals["Rss:"] / _MIB)


JOBS = ("read", "network", "whole")
_READINGS = 50
_HELD_BYTES = 2**30
"""Views kept in memory for the network alone; with more videos, those that fit are gone round."""


@dataclass(frozen=True)
class JobRate:
    """How fast one of the jobs is.

    Attributes:
        name: one of `JOBS`.
        videos_per_second: median over repeats.
        quartiles: lower and upper quartile over repeats, in videos per second.
        core_ms: milliseconds of processor time per video, over all processes, median; hardly disturbed by what else
            runs on the machine.
    """

    name: str
    videos_per_second: float
    quartiles: tuple[float, float]
    core_ms: float


@dataclass(frozen=True)
class MemoryRun:
    """Memory of all processes over one long prediction, in MiB of PSS unless named otherwise.

    Attributes:
        videos: predicted, going round the videos.
        readings: taken on the way.
        early_peak: highest reading of the first tenth.
        late_peak: highest reading of the last tenth.
        peak: highest of all.
        peak_rss: the same of RSS.
        growth: rise of a line through the readings after the first tenth.
    """

    videos: int
    readings: int
    early_peak: float
    late_peak: float
    peak: float
    peak_rss: float
    growth: float


@dataclass(frozen=True)
class PredictReport:
    """What `bench_predict` found.

    Attributes:
        rates: in the order of `JOBS`.
        of_slower: rate of the whole over that of the slower part: median over repeats of the ratio within each.
        of_shared_cores: likewise over the rate of reading and network in turn on the same cores; None with a GPU,
            where they do not share.
        memory: None where it was not asked for, or the system does not tell (it needs Linux).
        videos, views_per_video, workers, batch_size, threads, waiting, precision, device, repeats: how it was measured;
            one round to warm up goes before. `threads` are the network's on the CPU, `waiting` is OMP_WAIT_POLICY.
        machine: where.
    """

    rates: tuple[JobRate, ...]
    of_slower: float
    of_shared_cores: float | None
    memory: MemoryRun | None
    videos: int
    views_per_video: int
    workers: int
    batch_size: int
    threads: int
    waiting: str | None
    precision: str
    device: str
    repeats: int
    machine: Machine

    def rate(self, name: str) -> JobRate:
        """The job of that name."""
        return next(rate for rate in self.rates if rate.name == name)

    def verdict(self) -> list[str]:
        """What it means, in sentences."""
        read, network, whole = (self.rate(name) for name in JOBS)
        slower = min(read, network, key=lambda rate: rate.videos_per_second)
        word = "reading" if slower is read else "the network"
        lines = [f"The whole runs at {self.of_slower:.0%} of the slower part alone, {word}."]
        if self.of_shared_cores is not None:
            lines.append(
                "Reading and network share the cores: it runs at "
                f"{self.of_shared_cores:.0%} of both in turn on all of them."
            )
        extra = whole.core_ms / (read.core_ms + network.core_ms) - 1
        lines.append(
            f"It takes {whole.core_ms:.1f} ms of processor time a video, {extra:+.0%} on both parts' together."
        )
        if self.memory is not None:
            lines.append(
                f"Memory of all processes over {self.memory.videos} videos (PSS): at most "
                f"{self.memory.early_peak:.0f} MiB in the first tenth, {self.memory.late_peak:.0f} MiB in the last, "
                f"{self.memory.peak:.0f} MiB between; growth after the first tenth {self.memory.growth:+.1f} MiB."
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict()}


def bench_predict(
    recogniser: Recogniser,
    videos: Sequence[Path],
    *,
    workers: int | None = None,
    batch_size: int | None = None,
    repeats: int = 3,
    memory_videos: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictReport:
    """Measure prediction on some videos; the three jobs and the ratios are explained at the top of this module.

    Args:
        recogniser: network, device and precision.
        videos: at least one; all of them readable.
        workers: as of `Recogniser.predict_many`.
        batch_size: as of `Recogniser.predict_many`.
        repeats: timed passes of each job.
        memory_videos: length of the run whose memory is watched, at least 20 videos; 0 leaves it out.
        progress: called with (passes done, passes in all).

    Raises:
        ConfigError: an option is out of range.
        VideoError: a video cannot be read.
    """
    if not videos or repeats < 1 or (workers or 0) < 0 or (batch_size is not None and batch_size < 1):
        raise ConfigError(
            f"videos ({len(videos)}), repeats ({repeats}) and batch size ({batch_size}) must be at least 1, "
            f"workers ({workers}) at least 0"
        )
    if memory_videos < 0 or 0 < memory_videos < 20:
        raise ConfigError(f"memory videos must be 0 or at least 20, got {memory_videos}")
    workers = auto_workers(len(videos), recogniser.device) if workers is None else workers
    batch_size = auto_batch_size(recogniser.device) if batch_size is None else batch_size
    bench = _Bench(recogniser, videos, workers, batch_size)
    passes = len(JOBS) * (1 + repeats) + bool(memory_videos)
    done = itertools.count(1)
    core_ms: dict[str, list[float]] = {name: [] for name in JOBS}

    def job(name: str) -> None:
        before = _processor_seconds()
        getattr(bench, name)()
        core_ms[name].append(1e3 * (_processor_seconds() - before) / len(videos))
        progress(next(done), passes)

    timings = interleaved({name: functools.partial(job, name) for name in JOBS}, repeats, warmup=1)
    per_second = {name: [1e3 * len(videos) / wall for wall in timing.wall_ms] for name, timing in timings.items()}
    memory = bench.memory(memory_videos) if memory_videos else None
    rates = tuple(
        JobRate(name, statistics.median(values), quartiles(values), statistics.median(core_ms[name][1:]))
        for name, values in per_second.items()
    )
    rounds = list(zip(*(per_second[name] for name in JOBS), strict=True))
    in_turn = [whole * (1 / read + 1 / network) for read, network, whole in rounds]
    return PredictReport(
        rates=rates,
        of_slower=statistics.median(whole / min(read, network) for read, network, whole in rounds),
        of_shared_cores=statistics.median(in_turn) if recogniser.device.type == "cpu" else None,
        memory=memory,
        videos=len(videos),
        views_per_video=recogniser.preprocessing.num_views,
        workers=workers,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        waiting=os.environ.get("OMP_WAIT_POLICY"),
        precision=recogniser.precision,
        device=str(recogniser.device),
        repeats=repeats,
        machine=describe_machine(),
    )


class _Bench:
    """The jobs, over the same videos with the same settings."""

    def __init__(self, recogniser: Recogniser, videos: Sequence[Path], workers: int, batch_size: int) -> None:
        self._recogniser = recogniser
        self._videos = videos
        self._workers = workers
        self._batch_size = batch_size
        self._held = self._hold()

    def _hold(self) -> list[tuple[Path, Tensor]]:
        """The views of as many videos as fit."""
        held: list[tuple[Path, Tensor]] = []
        size = 0
        # Without workers: what they send lies in shared memory, of which there may be little.
        for path, outcome in read_views(self._videos, self._recogniser.preprocessing):
            held.append((path, _readable(outcome)))
            size += held[-1][1].nbytes
            if size >= _HELD_BYTES:
                break
        return held

    def read(self) -> None:
        """Read all, as `stream_scores` does, and drop it."""
        pin = self._recogniser.device.type == "cuda"
        pre = self._recogniser.preprocessing
        for _, outcome in read_views(self._videos, pre, workers=self._workers, pin_memory=pin):
            _readable(outcome)

    def network(self) -> None:
        """Score as many videos from memory."""
        scorer = VideoScorer(
            self._recogniser.model,
            self._recogniser.preprocessing,
            device=self._recogniser.device,
            batch_size=self._batch_size,
            precision=self._recogniser.precision,
        )
        for path, views_VCTHW in itertools.islice(itertools.cycle(self._held), len(self._videos)):
            scorer.add(path, views_VCTHW)
            for _ in scorer.finished():
                pass
        for _ in scorer.rest():
            pass

    def whole(self) -> None:
        """Predict all."""
        for _, outcome in self._recogniser.predict_many(
            self._videos, workers=self._workers, batch_size=self._batch_size
        ):
            _readable(outcome)

    def memory(self, count: int) -> MemoryRun | None:
        """Watch memory over one prediction of `count` videos."""
        self._held.clear()
        every = max(1, count // _READINGS)
        pss: list[float] = []
        peak_rss = 0.0
        around = itertools.islice(itertools.cycle(self._videos), count)
        found = self._recogniser.predict_many(around, workers=self._workers, batch_size=self._batch_size)
        for done, _ in enumerate(found, start=1):
            if done % every and done < count:
                continue
            now = tree_memory()
            if now is None:
                return None
            pss.append(now.pss)
            peak_rss = max(peak_rss, now.rss)
        tenth = max(1, len(pss) // 10)
        later = pss[tenth:]
        slope = statistics.linear_regression(range(len(later)), later).slope
        return MemoryRun(
            videos=count,
            readings=len(pss),
            early_peak=max(pss[:tenth]),
            late_peak=max(pss[-tenth:]),
            peak=max(pss),
            peak_rss=peak_rss,
            growth=slope * (len(later) - 1),
        )


def _readable(outcome: Any) -> Any:
    """The outcome, or raise the error that it is: a bench over other videos than it says would be no measurement."""
    if isinstance(outcome, VideoError):
        raise outcome
    return outcome


def _processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _parser() -> argparse.ArgumentParser:
    from emim.cli.predict import add_running_options

    parser = argparse.ArgumentParser(
        description=(
            "Measure how fast your videos are predicted, against reading them alone and the network alone, taking "
            "turns, and the memory of all processes over a long run."
        ),
    )
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="videos, or folders of them")
    parser.add_argument("--checkpoint", help="model.safetensors of a run (default: the bundled model)")
    parser.add_argument("--videos", type=POSITIVE, default=64, help="at most so many of them, spread (default 64)")
    parser.add_argument("--repeats", type=POSITIVE, default=3, help="timed passes of each job (default 3)")
    parser.add_argument(
        "--memory-videos", type=NATURAL, default=200, help="videos of the run whose memory is watched (default 200)"
    )
    add_result_options(parser)
    add_running_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()  # as `emim predict` does
    from emim.cli.predict import find_videos, load_recogniser
    from emim.data.prefetch import lost_workers_named

    found = [video for place in args.data for video in find_videos(place)]
    count = min(args.videos, len(found))
    videos = [found[number * len(found) // count] for number in range(count)]
    recogniser = load_recogniser(args)
    say(f"{count} of {len(found)} videos, {recogniser.precision} on {recogniser.device}")
    with lost_workers_named(), progress_bar("predicting", None) as progress:
        report = bench_predict(
            recogniser,
            videos,
            workers=args.workers,
            batch_size=args.batch_size,
            repeats=args.repeats,
            memory_videos=args.memory_videos,
            progress=progress,
        )
    if not args.json:
        print_report(report)
    about = {"data": [str(place) for place in args.data], "checkpoint": args.checkpoint or "bundled"}
    give_result(args, lambda: {**about, **report.to_dict()})
    return 0


def print_report(report: PredictReport) -> None:
    """The table of jobs, then what it means."""
    rows = [
        (rate.name, f"{rate.videos_per_second:.1f}", f"{low:.1f} - {high:.1f}", f"{rate.core_ms:.1f}")
        for rate in report.rates
        for low, high in [rate.quartiles]
    ]
    print_table("Prediction", ("job", "videos/s", "quartiles", "core ms/video"), rows)
    print("\n".join(report.verdict()))
    print(
        f"({report.videos} videos of {report.views_per_video} views, {report.workers} workers, batches of "
        f"{report.batch_size} views, {report.precision} on {report.device}, {report.threads} threads, "
        f"{report.repeats} passes after one to warm up)"
    )
    print(report.machine.line())


if __name__ == "__main__":
    sys.exit(run_script(main, _parser()))
