"""Time and memory of cost-volume attention alone, beside what else could be run in its place.

Candidates take turns, forward and forward with backward in the same rounds. Those that claim the values of the
definition are checked against it first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emim.bench.measuring import Report, Row, Settings, Timing, compared, interleaved, select, surroundings
from emim.bench.memory import PeakMemory, Work, peak_in_fresh_process, peak_on_gpu
from emim.bench.peers import Op, OpPeer, OpProblem, Outputs
from emim.bench.peers_installed import op_peers
from emim.errors import ProcessError
from emim.ops import cost_volume_attention, explain_backend

__all__ = ["FLOOR", "PASSES", "PUBLISHED", "bench_op", "memory_work", "wrong_values"]

FLOOR = "bare-products"
PUBLISHED = "published-cuda"
PASSES = {"forward": False, "forward + backward": True}
"""Names of the two jobs, and whether they run backward."""

_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def bench_op(
    problem: OpProblem,
    settings: Settings,
    *,
    peers: Sequence[str] | None = None,
    memory: bool = True,
    published_source: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure the operator.

    Args:
        problem: sizes and number format.
        settings: rounds, threads, device.
        peers: names of candidates; None for all. The default backend and the floor always run.
        memory: also measure peak memory.
        published_source: folder of the published CUDA kernels, which are then run too, or None.
        progress: called with a line on what is done next.

    Raises:
        UnknownNameError: no such candidate.
        ConfigError: the folder of the published kernels is not one.
    """
    known = op_peers(published_source)
    with settings.applied():
        inputs = problem.inputs(settings.device)
        base = explain_backend(*inputs, backend="auto").backend
        names = select(peers, known, (base, FLOOR, *((PUBLISHED,) if published_source else ())))
        runs: dict[tuple[str, str], Callable[[], object]] = {}
        reasons = {name: known[name].why_not(problem, settings.device, False) for name in names}
        skipped = {name: reason for name, reason in reasons.items() if reason is not None}
        for name in [name for name in names if name not in skipped]:
            progress(f"checking {name}")
            op = known[name].make(problem)
            reason = wrong_values(known[name], op, problem, inputs) if known[name].same_values else None
            if reason is not None:
                skipped[name] = reason
                continue
            for label, backward in PASSES.items():
                reason = known[name].why_not(problem, settings.device, backward)
                if reason is None:
                    runs[name, label] = _job(op, inputs, settings, backward=backward)
                else:
                    skipped[f"{name}, {label}"] = reason
        progress(f"timing {len(runs)} jobs in turn")
        timings = interleaved({_key(*job): run for job, run in runs.items()}, settings.repeats, settings.warmup)
        peaks: dict[tuple[str, str], PeakMemory] = {}
        for job in runs if memory else ():
            progress(f"memory of {_key(*job)}")
            try:
                peaks[job] = _peak(job, runs[job], problem, settings, known[job[0]])
            except ProcessError as error:
                skipped[f"{_key(*job)}, memory"] = str(error)
    rows = [_row(job, timings, peaks.get(job), base) for job in runs]
    return Report(
        part="op",
        problem=problem.to_dict(),
        rows=sorted(rows, key=lambda row: list(PASSES).index(row.conditions["pass"])),
        what={name: known[name].what for name in names if name not in skipped},
        skipped=skipped,
        surroundings=surroundings(settings),
    )


def wrong_values(peer: OpPeer, op: Op, problem: OpProblem, inputs: tuple[Tensor, ...]) -> str | None:
    """Return how the outputs differ from the definition's, for a candidate that claims them; None if they agree."""
    with torch.no_grad():
        q, k, v, rpb = inputs
        context, affinity = cost_volume_attention(q, k, v, rpb, backend="reference", return_affinity=True)
        expected = {"context": context, "affinity": affinity}
        for name, value in op(*inputs).items():
            tolerance = _TOLERANCE[problem.dtype]
            error = (value.float() - expected[name].float()).abs().max().item()
            scale = max(1.0, expected[name].float().abs().max().item())
            if not error <= tolerance * scale:
                return f"its {name} is wrong: it differs from the definition's by up to {error:.2g}"
    return None


def memory_work(*, name: str, problem: dict[str, Any], backward: bool) -> Work:
    """For a fresh process on the CPU: the candidate's work on its own inputs."""
    torch.manual_seed(0)
    settings = Settings(1, 0, torch.get_num_threads())
    peer, full = op_peers()[name], OpProblem(**problem)
    op = peer.make(full)
    first = full if peer.compiles else full.tiny()  # compiled code is of one size
    prepare = _job(op if peer.compiles else peer.make(first), first.inputs("cpu"), settings, backward=backward)
    return prepare, _job(op, full.inputs("cpu"), settings, backward=backward)


def _job(op: Op, inputs: tuple[Tensor, ...], settings: Settings, *, backward: bool) -> Callable[[], object]:
    leaves = [x.detach().requires_grad_(backward) for x in inputs]

    def run() -> None:
        with torch.set_grad_enabled(backward):
            outputs = op(*leaves)
            if backward:
                _gradients(outputs, leaves)
        settings.finish()

    return run


def _gradients(outputs: Outputs, leaves: Sequence[Tensor]) -> None:
    """Gradients of the inputs for a gradient of ones; an operator without affinity has no use for the bias."""
    values = [value for value in outputs.values() if value.requires_grad]
    torch.autograd.grad(values, leaves, [_ones(value) for value in values], allow_unused=True)


def _ones(value: Tensor) -> Tensor:
    return torch.ones_like(value, memory_format=torch.contiguous_format)


def _peak(
    job: tuple[str, str], run: Callable[[], object], problem: OpProblem, settings: Settings, peer: OpPeer
) -> PeakMemory:
    if settings.on_gpu:
        return peak_on_gpu(run, settings.device)
    del peer
    arguments = {"name": job[0], "problem": dataclasses.asdict(problem), "backward": PASSES[job[1]]}
    return peak_in_fresh_process("emim.bench.op:memory_work", arguments, threads=settings.threads)


def _row(job: tuple[str, str], timings: Mapping[str, Timing], peak: PeakMemory | None, base: str) -> Row:
    name, label = job
    others = {other: timings.get(_key(other, label)) for other in (base, FLOOR)}
    return Row(name, {"pass": label}, timings[_key(*job)], peak, compared(timings[_key(*job)], others))


def _key(name: str, label: str) -> str:
    return f"{name}, {label}"
