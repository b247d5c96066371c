"""Tests of the benchmarks of whole networks: what is run, skipped, counted and compared."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

import model as model_part
from emim.bench.measuring import Settings, Timing
from emim.bench.memory import PeakMemory
from emim.bench.peers import OpProblem
from emim.errors import ConfigError
from emim.nn import EMIM, SelfAttention
from emim.nn.layers import ConvMLP
from model import bench_model
from networks import NETWORKS, ClipProblem, Network, count
from scaling import Point, Result, _too_much, bench_scaling
from train import bench_train

ONCE = Settings(repeats=2, warmup=0, threads=1)
TINY_OP = OpProblem(heads=2, frames=2, height=4, width=4, head_width=8, window=3)
TINY_CLIP = ClipProblem("tiny", frames=2, size=32, classes=3)


def test_model_report() -> None:
    report = bench_model(
        TINY_CLIP, ONCE, peers=["unfold", "plain"], batches=(1, 2), precisions=("float32", "bfloat16"), memory=False
    )
    rows = {(row.name, row.conditions["batch"]): row for row in report.rows}
    assert len(rows) == 3 * 2 * 2
    assert [row.conditions["batch"] for row in report.rows] == [1] * 6 + [2] * 6
    ours = rows["emim, bfloat16", 2]
    assert set(ours.over) == {"emim", "unfold, float32", "batch 1"}
    assert ours.over["emim"] == 1
    assert rows["unfold, float32", 1].over["unfold, float32"] == 1
    assert ours.facts["multiply_adds_per_clip"] == dataclasses.asdict(count("emim", TINY_CLIP))
    json.dumps(report.to_dict())


def test_memory_of_a_network() -> None:
    report = bench_model(TINY_CLIP, ONCE, peers=["emim"], batches=(1,))
    memory = report.rows[0].memory
    assert memory is not None
    widest = 4 * 24 * 2 * 8 * 8  # the first stage's map in float32
    assert widest < memory.peak_bytes < 200 * 2**20


def test_a_network_with_wrong_logits_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(problem: ClipProblem) -> nn.Module:
        network = NETWORKS["emim"].build(problem)
        with torch.no_grad():
            network.head.bias += 1
        return network

    monkeypatch.setitem(NETWORKS, "other", Network("wrong", build, same_logits=True))
    report = bench_model(TINY_CLIP, ONCE, peers=["other"], batches=(1,), memory=False)
    assert [row.facts["network"] for row in report.rows] == ["emim"]
    assert "differ from those of emim by up to 1" in report.skipped["other"]


def test_a_batch_that_memory_does_not_hold_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_part, "free_bytes", lambda device: 2**30)
    peak = PeakMemory(peak_bytes=2**28, level_bytes=0, seconds=1)
    assert model_part._too_large(2, peak, ONCE) is None
    assert model_part._too_large(8, peak, ONCE) == "would need about 2.0 GiB, by the peak of one clip; 1.0 GiB are free"


@pytest.mark.parametrize("name", ["emim", "plain"])
def test_arithmetic_is_what_the_layers_add_up_to(name: str) -> None:
    """Counted a second time from the shapes that pass through the layers."""
    problem = ClipProblem("tiny", frames=4, size=64)
    total = 0

    def record(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d | nn.Linear):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, ConvMLP):  # takes rows past its layers' own forward
            total += output[:, 0].numel() * (module.fc1.weight.numel() + module.fc2.weight.numel())
        elif isinstance(module, EMIM):
            B, L, C = output.shape
            total += 2 * B * L * C * 49
            total += B * L * module.num_heads * sum(layer.weight.numel() for layer in module.motion_conv[::2])
        elif isinstance(module, SelfAttention):
            B, L, C = output.shape
            total += 2 * B * L * L * C

    network = NETWORKS[name].build(problem).eval()
    for module in network.modules():
        module.register_forward_hook(record)
    with torch.inference_mode():
        network(problem.clips(1, "cpu"))
    found = count(name, problem)
    assert found.needed == total
    assert (found.dense == found.needed) == (name == "plain")


@pytest.mark.slow  # networks of full size are built
def test_published_sizes_need_less_arithmetic_with_emim() -> None:
    emim, plain = (count(name, ClipProblem()) for name in ("emim", "plain"))
    assert emim.needed == 85149062144
    assert emim.needed < emim.dense < 0.8 * plain.needed


def test_train_report() -> None:
    report = bench_train(TINY_CLIP, ONCE, peers=["unfold"], batch=2, memory=False)
    assert [row.name for row in report.rows] == ["emim", "unfold"]
    assert report.problem["batch"] == 2
    json.dumps(report.to_dict())


def test_training_takes_more_memory_for_more_clips() -> None:
    once = dataclasses.replace(ONCE, repeats=1)
    problem = ClipProblem("tiny", frames=8, size=64, classes=3)
    small, large = (
        bench_train(problem, once, peers=["emim"], batch=batch).rows[0].memory.peak_bytes for batch in (2, 6)
    )
    assert large > 1.5 * small


def test_scaling_report() -> None:
    report = bench_scaling(ONCE, base=Point(2, 4, 3, 1, 1), axes={"frames": (4, 2), "window": (3,)}, memory=False)
    assert [(r.axis, r.value, r.module) for r in report.results] == [
        ("frames", 2, "emim"), ("frames", 2, "attention"), ("frames", 4, "emim"), ("frames", 4, "attention"),
        ("window", 3, "emim"), ("window", 3, "attention"),
    ]  # fmt: skip
    assert report.ratio("frames", 4) > 0
    assert all(result.not_run is None for result in report.results)
    json.dumps(report.to_dict())


def test_a_point_that_takes_too_long_or_too_much_is_left_out() -> None:
    point = Point(frames=16)
    timing = Timing((1000.0,), (1000.0,))
    result = Result("frames", 16, "attention", timing, PeakMemory(2**40, 0, 1.0))
    four_times = dataclasses.replace(point, frames=64)
    grown = four_times.expected_cost("attention") / point.expected_cost("attention")
    assert 4 < grown < 16  # its products grow with the square, its projections do not
    reason = _too_much("attention", four_times, (point, result), ONCE, limit=5)
    assert reason == f"would take about {grown:.0f} s (limit 5 s)"
    reason = _too_much("attention", four_times, (point, result), ONCE, limit=1e6)
    assert reason is not None
    assert reason.startswith("would need about 4096 GiB")
    assert _too_much("attention", four_times, None, ONCE, limit=5) is None


def test_a_slow_point_is_reported_as_not_run() -> None:
    base = Point(2, 4, 3, 1, 1)
    report = bench_scaling(ONCE, base=base, axes={"batch": (1, 2)}, memory=False, limit=1e-9)
    assert report.at("batch", 1, "emim").timing is not None  # there is nothing to expect it from
    assert "limit 1e-09 s" in (report.at("batch", 2, "emim").not_run or "")
    assert report.ratio("batch", 2) is None


def test_wrong_sizes() -> None:
    for wrong in ({"network": "huge"}, {"frames": 0}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            ClipProblem(**wrong)
    with pytest.raises(ConfigError, match="batch sizes"):
        bench_model(TINY_CLIP, ONCE, batches=(0,))
    with pytest.raises(ConfigError, match="not 'float16'"):
        bench_train(TINY_CLIP, ONCE, precision="float16")
    with pytest.raises(ConfigError, match="no axis 'heads'"):
        bench_scaling(ONCE, axes={"heads": (1,)})
    with pytest.raises(ConfigError, match="windows odd"):
        bench_scaling(ONCE, axes={"window": (4,)})
    with pytest.raises(ConfigError, match="limit"):
        bench_scaling(ONCE, limit=0)
