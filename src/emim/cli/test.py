"""`emim test`: accuracy of a trained network on labelled clips."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, percent, print_table, progress_bar, say, write_json
from emim.cli.labelled import (
    add_clip_options,
    add_running_options,
    circumstances,
    find_clips,
    find_precision,
    find_scoring,
    no_progress,
    silent,
    tell_of_missing,
    views_text,
)

if TYPE_CHECKING:
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
    add_clip_options(parser)
    output = parser.add_argument_group("results")
    output.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON, with all classes")
    output.add_argument(
        "--logits", type=Path, metavar="FILE", help="also write the logits of every view (.safetensors)"
    )
    output.add_argument(
        "--per-class", action="store_true", help=f"print the table of classes where there are over {_MOST_CLASSES}, too"
    )
    add_running_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.datasets.prepare.output import left_out
    from emim.distributed import is_first, plan_processes, process_group
    from emim.evaluation.outputs import score_clips
    from emim.evaluation.testing import describe_views, summarise, write_logits
    from emim.inference.recogniser import Recogniser
    from emim.models.trained_model import resolve_checkpoint

    for path in (args.json, args.logits):
        check_folder(path)
    first = is_first()
    tell = say if first else silent
    place = plan_processes(args.devices, args.nodes, args.accelerator)
    checkpoint = resolve_checkpoint(args.checkpoint)
    precision = find_precision(args.precision, place.device.type)
    recogniser = Recogniser.load(checkpoint, device=place.device, precision=precision)
    split, clip_list = find_clips(args, recogniser)
    options = find_scoring(args, recogniser, place.devices)
    preprocessing = options.preprocessing or recogniser.preprocessing
    tell(clip_list.note or f"{len(clip_list)} clips from {args.data}")
    tell(f"{precision} on {place}")

    with process_group(place) as members:
        started = time.monotonic()
        with progress_bar("testing", len(clip_list)) if first else nullcontext(no_progress) as progress:
            outputs = score_clips(
                recogniser,
                clip_list,
                options,
                keep_logits=args.logits is not None,
                group=members,
                progress=progress,
            )
        seconds = time.monotonic() - started
    if outputs is None:
        return 0  # the first process tells of the missing clips

    result = summarise(
        outputs.score_SK,
        outputs.label_S,
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
            **circumstances(clip_list, place.world, str(place), options.batch_size, seconds),
        }
        write_json(args.json, {**described, **result.to_dict()})
        tell(f"written to {args.json}")
    if args.logits is not None:
        seen = {"views": describe_views(preprocessing), "precision": precision}
        write_logits(args.logits, outputs, clip_list, {**about, **seen})
        tell(f"written to {args.logits}")
    tell_of_missing(result.missing, lacking, tell)
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
    title = f"Test with {views_text(result.preprocessing, result.precision)}"
    print_table(title, ("class" if per_class else "", "clips", "accuracy"), rows)
