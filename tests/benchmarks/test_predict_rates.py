"""The prediction benchmark: every job does all the videos, and the ratios follow from the rates."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

import predict
from emim.errors import ConfigError, VideoNotFoundError
from emim.inference.recogniser import Recogniser
from predict import JOBS, JobRate, MemoryRun, PredictReport, bench_predict, tree_memory


@pytest.fixture(scope="module")
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture(scope="module")
def videos(generated: Path) -> list[Path]:
    return sorted((generated / "test").rglob("*.mp4"))[:5]


@pytest.fixture(scope="module")
def report(recogniser: Recogniser, videos: list[Path]) -> PredictReport:
    passes: list[tuple[int, int]] = []
    sizes: list[int] = []
    hook = recogniser.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    report = bench_predict(
        recogniser, videos, workers=1, batch_size=2, repeats=1, memory_videos=20,
        progress=lambda done, total: passes.append((done, total)),
    )  # fmt: skip
    hook.remove()
    assert passes == [(done, 7) for done in range(1, 7)]
    # Network and whole, to warm up and timed, then the run for memory.
    assert sizes == [2, 2, 1] * 4 + [2] * 10
    return report


def test_ratios_follow_from_the_rates(report: PredictReport) -> None:
    read, network, whole = (report.rate(name).videos_per_second for name in JOBS)
    assert min(read, network, whole) > 0
    assert report.of_slower == pytest.approx(whole / min(read, network))
    assert report.of_shared_cores == pytest.approx(whole * (1 / read + 1 / network))
    assert all(rate.core_ms > 0 for rate in report.rates)
    described = report.to_dict()
    assert (described["videos"], described["views_per_video"], described["repeats"]) == (5, 1, 1)
    assert (described["workers"], described["batch_size"], described["precision"]) == (1, 2, "32-true")
    assert described["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_watched_over_the_whole_run(report: PredictReport) -> None:
    assert report.memory is not None
    assert (report.memory.videos, report.memory.readings) == (20, 20)
    assert 20 < report.memory.early_peak <= report.memory.peak <= report.memory.peak_rss


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_rises_with_what_is_allocated() -> None:
    before = tree_memory()
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    after = tree_memory()
    assert before is not None
    assert after is not None
    assert 60 < after.pss - before.pss < 100
    assert len(block) == 64 * 2**20


def test_views_beyond_what_is_held_are_gone_round(
    recogniser: Recogniser, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_HELD_BYTES", 1)
    sizes: list[int] = []
    hook = recogniser.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    bench = predict._Bench(recogniser, videos, workers=0, batch_size=2)
    assert len(bench._held) == 1
    bench.network()
    hook.remove()
    assert sizes == [2, 2, 1]


def test_verdict_says_which_part_bounds_it(report: PredictReport) -> None:
    rates = tuple(JobRate(name, rate, (rate, rate), 10.0) for name, rate in zip(JOBS, (20.0, 5.0, 3.8), strict=True))
    memory = MemoryRun(200, 50, 300.0, 301.0, 305.0, 500.0, 1.5)
    made = dataclasses.replace(report, rates=rates, of_slower=0.76, of_shared_cores=0.95, memory=memory)
    words = " ".join(made.verdict())
    for part in ("76% of the slower part alone, the network", "95% of both in turn", "-50%", "300 MiB", "+1.5 MiB"):
        assert part in words
    on_gpu = " ".join(dataclasses.replace(made, of_shared_cores=None, memory=None).verdict())
    assert "share the cores" not in on_gpu
    assert "MiB" not in on_gpu


@pytest.mark.parametrize(
    "options", [{"repeats": 0}, {"workers": -1}, {"batch_size": 0}, {"memory_videos": 5}, {"memory_videos": -1}]
)
def test_wrong_options(recogniser: Recogniser, videos: list[Path], options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        bench_predict(recogniser, videos, **options)  # type: ignore[arg-type]


def test_a_video_that_cannot_be_read_ends_it(recogniser: Recogniser, videos: list[Path]) -> None:
    with pytest.raises(VideoNotFoundError):
        bench_predict(recogniser, [*videos, Path("nowhere.mp4")], workers=0, repeats=1)
