"""Time a training step of whole networks and its peak memory."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emim.bench.measuring import DTYPES, Report, Row, Settings, compared, interleaved, select, surroundings
from emim.bench.memory import PeakMemory, Work, peak_in_fresh_process, peak_on_gpu
from emim.cli.bench import add_common, add_peers, print_report, settings_of, times
from emim.cli.console import give_result, say
from emim.cli.options import POSITIVE
from emim.errors import ConfigError, ProcessError
from networks import BASE, NETWORKS, ClipProblem
from running import add_clip, clip_of, run_script

_LEARNING_RATE = 1e-4


def bench_train(
    problem: ClipProblem,
    settings: Settings,
    *,
    peers: Sequence[str] | None = None,
    batch: int = 1,
    precision: str = "float32",
    memory: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure training steps. Weights change from step to step, so that each network's own rounds count.

    Args:
        problem: size of network and clip.
        settings: rounds, threads, device.
        peers: names in `NETWORKS`; None for all that can be trained. "emim" always runs.
        batch: clips of one step.
        precision: "float32", or "bfloat16" for autocast.
        memory: also measure peak memory: activations, gradients and temporaries; weights and AdamW's state are in
            the level.
        progress: called with a line on what is done next.

    Raises:
        UnknownNameError: no such network.
        ConfigError: a batch below 1, or a precision that a step cannot be measured in.
    """
    if batch < 1:
        raise ConfigError(f"the batch must be at least 1, got {batch}")
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"a training step is measured in float32 or bfloat16, not {precision!r}")
    names = select(peers, [name for name, network in NETWORKS.items() if network.trains], (BASE,))
    skipped: dict[str, str] = {}
    runs: dict[str, Callable[[], object]] = {}
    peaks: dict[str, PeakMemory] = {}
    with settings.applied():
        for name in names:
            reason = NETWORKS[name].why_not(problem)
            if reason is not None:
                skipped[name] = reason
                continue
            progress(f"preparing {name}")
            if memory and not settings.on_gpu:
                arguments = {
                    "name": name,
                    "problem": dataclasses.asdict(problem),
                    "batch": batch,
                    "precision": precision,
                }
                try:
                    peaks[name] = peak_in_fresh_process("train:memory_work", arguments, threads=settings.threads)
                except ProcessError as error:  # what a process of its own cannot do is not tried in this one
                    skipped[name] = str(error)
                    continue
            model = NETWORKS[name].build(problem).to(settings.device)
            runs[name] = step(model, problem, batch, precision, settings)
            if memory and settings.on_gpu:
                runs[name]()  # makes AdamW's state
                peaks[name] = peak_on_gpu(runs[name], settings.device)
        progress(f"timing {len(runs)} networks in turn")
        timings = interleaved(runs, settings.repeats, settings.warmup)
    rows = [
        Row(
            name,
            {"pass": "training step"},
            timings[name],
            peaks.get(name),
            compared(timings[name], {BASE: timings.get(BASE)}),
            {"peak_over": _peak_ratio(peaks, name)},
        )
        for name in runs
    ]
    return Report(
        part="train",
        problem={**dataclasses.asdict(problem), "batch": batch, "precision": precision},
        rows=rows,
        what={name: NETWORKS[name].what for name in runs},
        skipped=skipped,
        surroundings=surroundings(settings),
    )


def step(
    model: nn.Module, problem: ClipProblem, batch: int, precision: str, settings: Settings
) -> Callable[[], object]:
    """A training step on random clips and targets."""
    clips = problem.clips(batch, settings.device)
    return _step(model, clips, problem.classes, precision, settings, _optimiser(model))


def memory_work(*, name: str, problem: dict[str, Any], batch: int, precision: str) -> Work:
    """For a fresh process on the CPU: a step of one network; the first, small one makes AdamW's state."""
    torch.manual_seed(0)
    settings = Settings(1, 0, torch.get_num_threads())
    full, network = ClipProblem(**problem), NETWORKS[name]
    model = network.build(full)
    first = full.tiny() if network.any_size else full
    optimiser = _optimiser(model)

    def of(size: ClipProblem, clips: int) -> Callable[[], object]:
        return _step(model, size.clips(clips, "cpu"), full.classes, precision, settings, optimiser)

    return of(first, 2), of(full, batch)  # batch norm needs more than one value per channel


def _optimiser(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)


def _step(
    model: nn.Module,
    clips: Tensor,
    classes: int,
    precision: str,
    settings: Settings,
    optimiser: torch.optim.Optimizer,
) -> Callable[[], object]:
    targets = torch.rand(len(clips), classes, device=clips.device).softmax(-1)
    dtype = DTYPES[precision]

    def run() -> None:
        with torch.autocast(clips.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(clips)
        loss: Tensor = F.cross_entropy(logits.float(), targets)
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        settings.finish()

    return run


def _peak_ratio(peaks: dict[str, PeakMemory], name: str) -> dict[str, float]:
    if name not in peaks or BASE not in peaks:
        return {}
    return {BASE: peaks[name].peak_bytes / max(1, peaks[BASE].peak_bytes)}


_QUICK_PEERS = ["emim", "unfold", "plain"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Time a training step (forward, cross-entropy with soft targets, backward, AdamW) and its peak memory. On "
            "CPUs the default clips have 8 frames, on GPUs they are the published 16 x 224 x 224."
        ),
    )
    add_clip(parser)
    parser.add_argument("--batch", type=POSITIVE, default=1, help="clips of a step (default 1)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="format of autocast (default float32: none)"
    )
    add_peers(parser)
    add_common(parser, repeats=(5, 2), warmup=1, quick="three networks, clips of 4 x 112 x 112, fewer rounds")
    return parser


def main(args: argparse.Namespace) -> int:

    settings = settings_of(args)
    frames, size = (4, 112) if args.quick else (16, 224) if settings.on_gpu else (8, 224)
    report = bench_train(
        clip_of(args, frames=frames, size=size),
        settings,
        peers=args.peers or (_QUICK_PEERS if args.quick else None),
        batch=args.batch,
        precision=args.dtype,
        memory=not args.no_memory,
        progress=say,
    )
    problem = report.problem
    print(
        f"UniFormer {problem['network']}, {problem['batch']} x {problem['frames']} x {problem['size']} x "
        f"{problem['size']}, {problem['precision']}"
    )
    print_report(report, lambda conditions: "One training step", ("peak / emim", _peak_over))
    print("peak: activations, gradients and temporaries; weights and AdamW's state come on top")
    give_result(args, report.to_dict)
    return 0


def _peak_over(row: Row) -> str:
    return times(row.facts["peak_over"].get("emim"))


if __name__ == "__main__":
    sys.exit(run_script(main, _parser()))
