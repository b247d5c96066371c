"""The loader benchmark: its stages make the item that training sees, and its report adds up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from emim.bench.loader import STAGES, LoaderRate, LoaderReport, _stages_of, bench_loader, default_worker_counts
from emim.data.augment.transforms import AugmentOptions
from emim.data.dataset import TrainClips
from emim.data.folder import load_clips
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.environment import describe_machine, usable_cores
from emim.errors import ConfigError

PRE = Preprocessing(num_frames=4, size=32)
AUGMENT = AugmentOptions(brightness=0.4)


@pytest.fixture(scope="module")
def clip_list(generated: Path) -> ClipList:
    return load_clips(generated, split="train")


@pytest.fixture(scope="module")
def report(clip_list: ClipList) -> LoaderReport:
    passes: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    report = bench_loader(
        clip_list, PRE, AUGMENT, clips=5, workers=[1, 0], batch_size=2, repeats=2, step_ms=1e6,
        progress=lambda done, total: passes.append((done, total)),
    )  # fmt: skip
    assert torch.get_num_threads() == threads
    assert passes == [(done, 7) for done in range(1, 8)]
    return report


def test_stages_add_up(report: LoaderReport) -> None:
    assert tuple(stage.name for stage in report.stages) == STAGES
    assert sum(stage.share for stage in report.stages) == pytest.approx(1)
    assert all(low <= stage.median_ms <= high for stage in report.stages for low, high in [stage.quartiles_ms])
    assert all(stage.median_ms > 0 for stage in report.stages)
    assert report.bound == max(report.stages, key=lambda stage: stage.share).name
    assert report.clip_ms > max(stage.share for stage in report.stages) * report.clip_ms


def test_rates_are_those_of_the_workers_asked_for(report: LoaderReport) -> None:
    assert [rate.workers for rate in report.rates] == [0, 1]
    assert all(low <= rate.clips_per_second <= high for rate in report.rates for low, high in [rate.quartiles])
    assert report.best_workers == 1  # with 0, training would wait for every clip
    assert report.keeps_up is True
    assert "keeps up" in report.verdict()[-1]
    assert report.to_dict()["verdict"] == report.verdict()


def test_stages_make_the_item_of_training(clip_list: ClipList) -> None:
    data_set = TrainClips(clip_list, PRE, AUGMENT, seed=3)
    spent, item = _stages_of(data_set, 2)
    assert tuple(spent) == STAGES[:3]
    expected = data_set[2]
    assert torch.equal(item["clip"], expected["clip"])
    assert (item["label"], item["index"]) == (expected["label"], expected["index"])


def test_verdict_in_each_case(report: LoaderReport) -> None:
    machine = dataclasses.replace(describe_machine(), cores=4)

    def verdict(rates: dict[int, float], **changes: object) -> str:
        made = tuple(LoaderRate(workers, rate, (rate, rate)) for workers, rate in rates.items())
        changed = dataclasses.replace(report, rates=made, machine=machine, step_ms=None, **changes)
        return " ".join(changed.verdict())

    two = {0: 10.0, 1: 10.0, 2: 19.0}
    assert "try more, up to 4 cores" in verdict(two, best_workers=2, grows=True)
    assert "More bring little" in verdict({**two, 4: 19.1}, best_workers=2, grows=True)
    assert "All 4 cores are busy" in verdict({**two, 4: 38.0}, best_workers=4, grows=True)
    assert "More bring little" in verdict({**two, 4: 21.0}, best_workers=4, grows=False)


def test_small_data_sets_are_gone_round(clip_list: ClipList) -> None:
    few = dataclasses.replace(clip_list, entries=clip_list.entries[:2])
    report = bench_loader(few, PRE, AUGMENT, clips=5, workers=[0], batch_size=5, repeats=1)
    assert (report.clips, report.keeps_up) == (5, None)


@pytest.mark.parametrize(
    "options", [{"clips": 0}, {"workers": []}, {"workers": [-1]}, {"batch_size": 65}, {"repeats": 0}, {"step_ms": 0.0}]
)
def test_wrong_options(clip_list: ClipList, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        bench_loader(clip_list, PRE, AUGMENT, **options)  # type: ignore[arg-type]


def test_default_counts_reach_the_cores() -> None:
    counts = default_worker_counts()
    assert counts[:2] == [0, 1]
    assert counts[-1] == usable_cores()
    assert counts == sorted(set(counts))


def test_machine_names_processor_and_versions() -> None:
    machine = describe_machine()
    assert machine.processor
    assert machine.processor in machine.line()
    assert machine.versions["torch"] == torch.__version__
    assert machine.to_dict()["cores"] == usable_cores()
