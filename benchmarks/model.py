"""Time the forward pass of whole networks: UniFormer with EMIM beside unfold, plain UniFormer and VideoMAE."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emim.bench.measuring import (
    DTYPES,
    Report,
    Row,
    Settings,
    Timing,
    compared,
    interleaved,
    native_bfloat16,
    select,
    surroundings,
)
from emim.bench.memory import PeakMemory, Work, peak_in_fresh_process, peak_on_gpu
from emim.cli.bench import add_common, add_peers, dtypes, numbers, print_report, settings_of
from emim.cli.console import give_result, say
from emim.errors import ConfigError, ProcessError
from emim.training.memory import free_bytes
from networks import BASE, NETWORKS, ClipProblem, count
from running import add_clip, clip_of, run_script

PUBLISHED = "unfold"
"""The network whose float32 form stands for the published code."""

_LOGITS_TOLERANCE = 1e-4
_COMPILED_FORMS = 200
# Share of the free memory that a batch may need by the peak of one clip.
_USABLE = 0.8


@dataclass(frozen=True)
class Job:
    """One thing that is timed."""

    network: str
    batch: int
    precision: str
    compiled: bool = False

    @property
    def key(self) -> str:
        return f"{self.network}, {self.precision}, batch {self.batch}{', compiled' * self.compiled}"

    @property
    def name(self) -> str:
        """Of the row in the table of its batch size."""
        return f"{self.network}, {self.precision}{', compiled' * self.compiled}"


def bench_model(
    problem: ClipProblem,
    settings: Settings,
    *,
    peers: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 8),
    precisions: Sequence[str] = ("float32",),
    compiled: bool = False,
    memory: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure the forward pass of whole networks.

    Args:
        problem: size of network and clip.
        settings: rounds, threads, device.
        peers: names in `NETWORKS`; None for all. "emim" always runs.
        batches: clips of one pass.
        precisions: "float32", or the number format of autocast.
        compiled: also time each network under torch.compile.
        memory: also measure the peak memory of one clip.
        progress: called with a line on what is done next.

    Raises:
        UnknownNameError: no such network.
        ConfigError: a batch below 1, or no such precision.
    """
    if not batches or min(batches) < 1:
        raise ConfigError(f"batch sizes must be at least 1, got {list(batches)}")
    if unknown := [name for name in precisions if name not in DTYPES]:
        raise ConfigError(f"no number format {unknown[0]!r}; known: {', '.join(DTYPES)}")
    skipped: dict[str, str] = {}
    with settings.applied(), _compiler(compiled):
        models = _prepared(select(peers, NETWORKS, (BASE,)), problem, settings, skipped, progress)
        peaks = _peaks(models, problem, precisions, settings, skipped, progress) if memory else {}
        runs: dict[Job, Callable[[], object]] = {}
        facts: dict[Job, dict[str, Any]] = {}
        for network, model in models.items():
            arithmetic = dataclasses.asdict(count(network, problem))
            for form in (False, True) if compiled else (False,):
                for precision in precisions:
                    for batch in batches:
                        job = Job(network, batch, precision, form)
                        if (reason := _too_large(batch, peaks.get((network, precision)), settings)) is not None:
                            skipped[job.key] = reason
                            continue
                        runs[job] = forward(model, problem.clips(batch, settings.device), precision, form, settings)
                        facts[job] = {"multiply_adds_per_clip": arithmetic}
                        if form:
                            progress(f"compiling {job.key}")
                            facts[job]["first_call_seconds"] = _seconds(runs[job])
        progress(f"timing {len(runs)} jobs in turn")
        measured = interleaved({job.key: run for job, run in runs.items()}, settings.repeats, settings.warmup)
    timings = {job: _per_clip(measured[job.key], job.batch) for job in runs}
    rows = [
        _row(job, timings, peaks.get((job.network, job.precision)) if job.batch == 1 else None, facts[job], batches)
        for job in sorted(runs, key=lambda job: batches.index(job.batch))
    ]
    return Report(
        part="model",
        problem={**dataclasses.asdict(problem), "batches": list(batches), "precisions": list(precisions)},
        rows=rows,
        what={name: NETWORKS[name].what for name in models},
        skipped=skipped,
        surroundings=surroundings(settings),
    )


def forward(
    model: nn.Module, clips: Tensor, precision: str, compiled: bool, settings: Settings
) -> Callable[[], object]:
    """A pass in inference mode; "float32" runs without autocast."""
    called = torch.compile(model, dynamic=False) if compiled else model
    dtype = DTYPES[precision]

    def run() -> object:
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(settings.device).type, dtype, enabled=dtype != torch.float32),
        ):
            logits = called(clips)
        settings.finish()
        return logits

    return run


def memory_work(*, name: str, problem: dict[str, Any], precision: str) -> Work:
    """For a fresh process on the CPU: one clip through one network."""
    torch.manual_seed(0)
    settings = Settings(1, 0, torch.get_num_threads())
    full = ClipProblem(**problem)
    network = NETWORKS[name]
    model = network.build(full).eval()
    first = full.tiny() if network.any_size else full
    run = functools.partial(forward, model, precision=precision, compiled=False, settings=settings)
    return run(first.clips(1, "cpu")), run(full.clips(1, "cpu"))


def _prepared(
    names: Sequence[str],
    problem: ClipProblem,
    settings: Settings,
    skipped: dict[str, str],
    progress: Callable[[str], None],
) -> dict[str, nn.Module]:
    """The networks that can run, on the device and ready to predict."""
    models: dict[str, nn.Module] = {}
    clip = problem.clips(1, settings.device)
    expected: Tensor | None = None
    for name in names:
        reason = NETWORKS[name].why_not(problem)
        if reason is None:
            progress(f"preparing {name}")
            model = NETWORKS[name].build(problem).eval().to(settings.device)
            if NETWORKS[name].same_logits or name == BASE:
                with torch.inference_mode():
                    logits = model(clip).float()
                expected = logits if expected is None else expected
                error = (logits - expected).abs().max().item()
                if not error <= _LOGITS_TOLERANCE * max(1.0, expected.abs().max().item()):
                    reason = f"its logits are wrong: they differ from those of {BASE} by up to {error:.2g}"
        if reason is None:
            models[name] = model
        else:
            skipped[name] = reason
    return models


def _peaks(
    models: Mapping[str, nn.Module],
    problem: ClipProblem,
    precisions: Sequence[str],
    settings: Settings,
    skipped: dict[str, str],
    progress: Callable[[str], None],
) -> dict[tuple[str, str], PeakMemory]:
    """Of one clip, by network and precision."""
    peaks: dict[tuple[str, str], PeakMemory] = {}
    for name, model in models.items():
        for precision in precisions:
            progress(f"memory of {name}, {precision}")
            if settings.on_gpu:
                run = forward(model, problem.clips(1, settings.device), precision, False, settings)
                run()
                peaks[name, precision] = peak_on_gpu(run, settings.device)
                continue
            arguments = {"name": name, "problem": dataclasses.asdict(problem), "precision": precision}
            try:
                peak = peak_in_fresh_process("model:memory_work", arguments, threads=settings.threads)
                peaks[name, precision] = peak
            except ProcessError as error:
                skipped[f"{name}, {precision}, memory"] = str(error)
    return peaks


def _too_large(batch: int, peak: PeakMemory | None, settings: Settings) -> str | None:
    if peak is None or batch == 1:
        return None
    needed, free = batch * peak.peak_bytes, free_bytes(torch.device(settings.device))
    if needed <= _USABLE * free:
        return None
    return f"would need about {needed / 2**30:.1f} GiB, by the peak of one clip; {free / 2**30:.1f} GiB are free"


@contextmanager
def _compiler(used: bool) -> Iterator[None]:
    """Networks of one class share the compiler's cache; beyond its usual size it would fall back in silence."""
    if not used:
        yield
        return
    import torch._dynamo.config as dynamo

    with dynamo.patch(recompile_limit=_COMPILED_FORMS, fail_on_recompile_limit_hit=True):
        yield


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _row(
    job: Job,
    timings: Mapping[Job, Timing],
    peak: PeakMemory | None,
    facts: Mapping[str, Any],
    batches: Sequence[int],
) -> Row:
    others = {
        BASE: timings.get(Job(BASE, job.batch, job.precision)),
        f"{PUBLISHED}, float32": timings.get(Job(PUBLISHED, job.batch, "float32")),
    }
    if job.batch != batches[0]:
        others[f"batch {batches[0]}"] = timings.get(dataclasses.replace(job, batch=batches[0]))
    return Row(
        job.name,
        {"batch": job.batch},
        timings[job],
        peak,
        compared(timings[job], others),
        {"network": job.network, "precision": job.precision, "compiled": job.compiled, **facts},
    )


def _per_clip(timing: Timing, batch: int) -> Timing:
    """Times of a clip of the batch."""
    return Timing(tuple(ms / batch for ms in timing.wall_ms), tuple(ms / batch for ms in timing.cpu_ms))


_QUICK_PEERS = ["emim", "unfold", "plain"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Time the forward pass of UniFormer with EMIM for one clip and for batches, beside the published semantics "
            "with unfold, the plain UniFormer and VideoMAE, and count their arithmetic."
        ),
    )
    add_clip(parser)
    parser.add_argument("--batch", type=numbers, metavar="N,N,...", help="clips of a pass (default 1,8)")
    parser.add_argument(
        "--dtype", type=dtypes, metavar="NAME,NAME,...",
        help="float32, or the format of autocast (default: float32, and bfloat16 where the machine computes in it)",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="each network under torch.compile, too")
    add_peers(parser)
    add_common(parser, repeats=(5, 3), warmup=1, quick="one clip, three networks, fewer rounds, without memory")
    return parser


def main(args: argparse.Namespace) -> int:

    settings = settings_of(args)
    native = ["float32", "bfloat16"] if native_bfloat16(settings) else ["float32"]
    report = bench_model(
        clip_of(args),
        settings,
        peers=args.peers or (_QUICK_PEERS if args.quick else None),
        batches=args.batch or ([1] if args.quick else [1, 8]),
        precisions=args.dtype or native,
        compiled=args.compile,
        memory=not (args.no_memory or args.quick),
        progress=say,
    )
    problem = report.problem
    print(f"UniFormer {problem['network']}, clips of {problem['frames']} x {problem['size']} x {problem['size']}")
    columns = [("GMAC", _needed), ("GMAC, dense", _dense)]
    if args.compile:
        columns.append(("first call s", _first_call))
    print_report(report, _title, *columns)
    print("GMAC: multiply-adds of a clip that the network is defined by; dense: that the dense backend computes")
    give_result(args, report.to_dict)
    return 0


def _title(conditions: Mapping[str, Any]) -> str:
    batch = conditions["batch"]
    return "One clip" if batch == 1 else f"Batches of {batch}, times per clip"


def _needed(row: Row) -> str:
    return f"{row.facts['multiply_adds_per_clip']['needed'] / 1e9:.1f}"


def _dense(row: Row) -> str:
    return f"{row.facts['multiply_adds_per_clip']['dense'] / 1e9:.1f}"


def _first_call(row: Row) -> str:
    seconds = row.facts.get("first_call_seconds")
    return "-" if seconds is None else f"{seconds:.1f}"


if __name__ == "__main__":
    sys.exit(run_script(main, _parser()))
