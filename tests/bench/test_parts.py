"""The parts of `emim bench` that time candidates: what is run, skipped, counted and compared."""

from __future__ import annotations

import json

import pytest
import torch

from emim.bench.measuring import Settings, Timing, compared, select
from emim.bench.memory import peak_in_fresh_process
from emim.bench.op import bench_op
from emim.bench.peers import OpProblem
from emim.errors import ConfigError, UnknownNameError
from emim.ops import explain_backend
from networks import NETWORKS, ClipProblem

ONCE = Settings(repeats=2, warmup=0, threads=1)
TINY_OP = OpProblem(heads=2, frames=2, height=4, width=4, head_width=8, window=3)
TINY_CLIP = ClipProblem("tiny", frames=2, size=32, classes=3)


def chosen_backend() -> str:
    """The backend that runs here by itself, which the others are compared with."""
    x = torch.zeros(1, 1, 2, 4, 4, 8)
    return explain_backend(x, x, x, torch.zeros(1, 3, 3), backend="auto").backend


def test_op_report() -> None:
    chosen = chosen_backend()
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    report = bench_op(TINY_OP, ONCE, peers=["unfold", "natten", "published-cuda"], memory=False)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    content = json.loads(json.dumps(report.to_dict()))
    jobs = [(row["name"], row["pass"]) for row in content["rows"]]
    assert jobs[:1] == [(chosen, "forward")]
    for name in (chosen, "unfold", "bare-products"):  # the first and the last run whatever was asked for
        assert (name, "forward") in jobs
        assert (name, "forward + backward") in jobs
    assert "published-source" in content["skipped"]["published-cuda"]
    assert content["settings"] == {"repeats": 2, "warmup": 0, "threads": 1, "device": "cpu"}
    assert content["problem"] == TINY_OP.to_dict()
    assert content["machine"]["versions"]["torch"] == torch.__version__
    by_job = {(row["name"], row["pass"]): row for row in content["rows"]}
    row, base = by_job["unfold", "forward"], by_job[chosen, "forward"]
    assert len(row["wall_ms"]) == 2
    rounds = [a / b for a, b in zip(row["wall_ms"], base["wall_ms"], strict=True)]
    assert row["over"][chosen] == pytest.approx(sum(rounds) / 2)
    assert base["over"][chosen] == 1


def test_memory_of_unfold_is_that_of_its_copies() -> None:
    problem = OpProblem(frames=4)
    peaks = {}
    for name in ("unfold", "dense"):
        arguments = {"name": name, "problem": problem.to_dict(), "backward": False}
        peaks[name] = peak_in_fresh_process("emim.bench.op:memory_work", arguments, threads=1).peak_bytes
    copies = 4 * problem.heads * 4 * 14 * 14 * 64 * 49  # of the keys, in float32
    assert copies < peaks["unfold"] < 4 * copies
    assert peaks["dense"] < copies


def test_ratios_are_taken_within_rounds() -> None:
    slow, fast = Timing((10.0, 200.0, 12.0), (1.0,) * 3), Timing((1.0, 20.0, 1.0), (1.0,) * 3)
    assert compared(slow, {"fast": fast, "not run": None}) == {"fast": 10.0}


def test_selection() -> None:
    assert select(None, "abc") == ["a", "b", "c"]
    assert select(["c"], "abc", ["a"]) == ["a", "c"]
    with pytest.raises(UnknownNameError, match="did you mean 'unfold'"):
        select(["unfld"], NETWORKS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repeats": 0}, "at least 1"),
        ({"warmup": -1}, "at least 0"),
        ({"device": "tpu"}, "known are cpu and cuda"),
        ({"device": "mps"}, "known are cpu and cuda"),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**{"repeats": 1, "warmup": 0, "threads": 1, **values})


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="finds no GPU"):
        Settings(1, 0, 1, "cuda")
