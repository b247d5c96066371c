"""`emim test`: accuracy of a trained network on labelled clips."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emim.cli.console import (
    SubParsers,
    check_folder,
    natural,
    percent,
    positive,
    print_table,
    progress_bar,
    say,
    write_json,
)

if TYPE_CHECKING:
    from emim.data.folder import Split
    from emim.data.manifest import ClipList
    from emim.data.preprocessing import Preprocessing
    from emim.evaluation.outputs import Precision
    from emim.evaluation.recogniser import Recogniser
    from emim.evaluation.testing import TestResult

_MOST_CLASSES = 30
"""Classes that a table of them is printed for without being asked."""


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "test",
        parents=[common],
        help="test a trained network on labelled clips",
        description="Test a trained network: top-1, top-5, mean-class accuracy and a table of classes.",
        epilog=(
            "Runs on several processes by --devices, torchrun or srun; the figures do not depend on how many. "
            "The exit status is 1 where a clip could not be read."
        ),
    )
    parser.add_argument("checkpoint", help="model.safetensors of a run, or 'bundled'")
    parser.add_argument("--data", required=True, type=Path, help="folder of classes, or manifest CSV")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part (default: test of a folder, all of a manifest)",
    )
    views = parser.add_argument_group("views of a video")
    views.add_argument("--clips", type=positive, help="test clips per video (default: as trained)")
    views.add_argument("--crops", type=positive, choices=(1, 3), help="test crops per clip (default: as trained)")
    views.add_argument("--size", type=positive, help="side of the network input in pixels (default: as trained)")
    output = parser.add_argument_group("results")
    output.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON, with all classes")
    output.add_argument(
        "--logits", type=Path, metavar="FILE", help="also write the logits of every view (.safetensors)"
    )
    output.add_argument(
        "--per-class", action="store_true", help=f"print the table of classes where there are over {_MOST_CLASSES}, too"
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--devices",
        type=device_count,
        default="auto",
        help="processes per machine (default: one per GPU, 1 on the CPU)",
    )
    running.add_argument("--nodes", type=positive, default=1, help="machines (default 1; torchrun and srun know)")
    running.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: GPUs if any")
    running.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed"),
        default="auto",
        help="default: 32-true on the CPU, bf16-mixed on GPUs that compute in it",
    )
    running.add_argument("--batch-size", type=positive, default=8, help="videos per batch of a process (default 8)")
    running.add_argument("--workers", type=natural, help="loader processes of each process (default: by cores)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.data.loader import default_workers
    from emim.data.prepare.output import left_out
    from emim.evaluation.logits_file import write_logits
    from emim.evaluation.outputs import clip_outputs
    from emim.evaluation.recogniser import Recogniser
    from emim.evaluation.testing import describe_views, summarise
    from emim.models.bundled import resolve_checkpoint
    from emim.processes import is_first, layout, team

    for path in (args.json, args.logits):
        check_folder(path)
    first = is_first()
    tell = say if first else _silent
    place = layout(args.devices, args.nodes, args.accelerator)
    checkpoint = resolve_checkpoint(args.checkpoint)
    recogniser = Recogniser.load(checkpoint, device=place.device)
    split, clip_list = _find_clips(args, recogniser)
    preprocessing = _views(args, recogniser)
    precision = _precision(args.precision, place.device.type)
    tell(clip_list.note or f"{len(clip_list)} clips from {args.data}")
    tell(f"{precision} on {place}")

    with team(place) as members:
        started = time.monotonic()
        with progress_bar("testing", len(clip_list)) if first else nullcontext(_no_progress) as progress:
            outputs = clip_outputs(
                recogniser.model,
                clip_list,
                preprocessing,
                device=place.device,
                batch_size=args.batch_size,
                workers=default_workers(place.devices) if args.workers is None else args.workers,
                precision=precision,
                keep_logits=args.logits is not None,
                team=members,
                progress=progress,
            )
        seconds = time.monotonic() - started
    if outputs is None:
        return 0  # the first process tells of the missing clips

    result = summarise(
        outputs.score_NK,
        outputs.label_N,
        clip_list.classes,
        preprocessing=preprocessing,
        precision=precision,
        missing=outputs.missing,
    )
    lacking = left_out(args.data)
    print_result(
        result,
        per_class=args.per_class or len(clip_list.classes) <= _MOST_CLASSES,
        left_out=0 if lacking is None else lacking.clips,
    )
    tell(f"{seconds:.1f} s, {len(clip_list) / seconds:.1f} clips a second")
    if not args.per_class and len(clip_list.classes) > _MOST_CLASSES:
        tell(f"{len(clip_list.classes)} classes: --per-class prints the table of them, --json FILE writes it")
    about = {"checkpoint": str(checkpoint), "data": str(args.data), "split": split}
    if args.json is not None:
        described = {
            **about,
            "left_out_by_prepare": 0 if lacking is None else lacking.clips,
            **_circumstances(clip_list, place.world, str(place), args.batch_size, seconds),
        }
        write_json(args.json, {**described, **result.to_dict()})
        tell(f"written to {args.json}")
    if args.logits is not None:
        seen = {"views": describe_views(preprocessing), "precision": precision}
        write_logits(args.logits, outputs, clip_list, {**about, **seen})
        tell(f"written to {args.logits}")
    for path, reason in result.missing:
        tell(f"missing: {reason if str(path) in reason else f'{path}: {reason}'}")
    if lacking is not None:
        tell(
            f"left out by emim prepare: {lacking.clips} of {lacking.listed} clips that the data set lists, in no "
            f"figure; {lacking.report} names them"
        )
    return 1 if result.missing else 0


def print_result(result: TestResult, *, per_class: bool = True, left_out: int = 0) -> None:
    """The totals, below the table of classes.

    Args:
        result: what was measured.
        per_class: print the table of classes.
        left_out: clips of the data set that its manifest lacks.
    """
    rows = [(row.name, str(row.clips), percent(row.top1)) for row in result.per_class] if per_class else []
    low, high = result.top1_interval
    rows += [
        ("top-1", str(result.clips), percent(result.top1)),
        ("95 % interval (Wilson)", "", f"{percent(low)} to {percent(high)}"),
        ("top-5", str(result.clips), percent(result.top5)),
        ("mean over classes", str(result.clips), percent(result.mean_class)),
    ]
    if result.missing:
        rows.append(("missing, in no figure", str(len(result.missing)), "-"))
    if left_out:
        rows.append(("left out by emim prepare, in no figure", str(left_out), "-"))
    print_table(_title(result), ("class" if per_class else "", "clips", "accuracy"), rows)


def _title(result: TestResult) -> str:
    """The views and the precision, in lines no wider than the table."""
    pre = result.preprocessing
    clips = f"{pre.clips} clip{'s' * (pre.clips != 1)}"
    crops = f"{pre.crops_per_clip} crop{'s' * (pre.crops_per_clip != 1)}"
    sampling = f"dense, stride {pre.stride}" if pre.sampling == "dense" else pre.sampling
    return (
        f"Test with {clips} x {crops} of each video,\n"
        f"{pre.num_frames} frames ({sampling}) of {pre.size} pixels, {pre.fit},\n"
        f"in {result.precision}"
    )


def _find_clips(args: argparse.Namespace, recogniser: Recogniser) -> tuple[str, ClipList]:
    from emim.data.folder import load_clips

    is_manifest = args.data.suffix.lower() == ".csv"
    split: Split | Literal["all"] = args.split or ("all" if is_manifest else "test")
    card = recogniser.card
    trained_with = card.config.get("data", {}), card.config.get("trainer", {})
    return split, load_clips(
        args.data,
        split=None if split == "all" else split,
        classes=card.classes,
        val_share=trained_with[0].get("val_share", 0.2),
        seed=trained_with[1].get("seed", 0),
        max_missing=1.0,  # what is not there is reported as missing, with the rest
    )


def _views(args: argparse.Namespace, recogniser: Recogniser) -> Preprocessing:
    import dataclasses

    asked = {key: value for key in ("clips", "crops", "size") if (value := getattr(args, key)) is not None}
    return dataclasses.replace(recogniser.preprocessing, **asked)


def _precision(wanted: Literal["auto"] | Precision, device_type: str) -> Precision:
    """On the CPU "auto" is float32, whatever it can: a test there is for exact figures."""
    from emim.training.precision import resolve_precision

    if wanted == "auto" and device_type == "cpu":
        return "32-true"
    resolved = resolve_precision(wanted, device_type)
    return "bf16-mixed" if resolved == "bf16-mixed" else "32-true"


def _circumstances(clip_list: ClipList, processes: int, device: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """What the figures were measured on, for the JSON."""
    from emim.data.folder import fingerprint
    from emim.machine import describe_machine

    return {
        "fingerprint": fingerprint(clip_list),
        "processes": processes,
        "device": device,
        "batch_size": batch_size,
        "seconds": round(seconds, 2),
        "clips_per_second": round(len(clip_list) / seconds, 2),
        "machine": describe_machine().to_dict(),
    }


def device_count(text: str) -> int | Literal["auto"]:
    """An argument that is a number of processes, or "auto"."""
    return "auto" if text == "auto" else positive(text)


def _silent(line: str) -> None:
    del line


def _no_progress(done: int, total: int) -> None:
    del done, total
