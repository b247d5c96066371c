"""`emim test`: accuracy of a trained network on labelled clips."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, give_result, percent, print_table, progress_bar, say
from emim.cli.labelled import (
    add_clip_options,
    add_running_options,
    circumstances,
    find_clips,
    find_precision,
    find_processes,
    find_scoring,
    no_progress,
    silent,
    tell_of_missing,
    views_text,
)
from emim.cli.options import add_result_options, complete, examples, file_path, json_with_file

if TYPE_CHECKING:
    from emim.evaluation.testing import TestResult

__all__ = ["add_parser", "print_result", "run"]

_MOST_CLASSES = 30
"""Number of classes up to which their table is printed without --per-class."""


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "test",
        parents=[common],
        help="test a trained network on labelled clips",
        description="Test a trained network: top-1, top-5 and mean-class accuracy, and the accuracy of each class.",
        epilog=examples(
            "emim test runs/mine/model.safetensors --data mine --split val",
            "emim test bundled --data data/motion/test.csv --output test.json",
            "torchrun --standalone --nproc-per-node 4 -m emim test runs/x/model.safetensors --data val.csv",
            note=(
                "Runs on several processes with --devices, torchrun or srun; the figures do not depend on their "
                "number. The exit status is 1 if a clip could not be read."
            ),
        ),
    )
    add_clip_options(parser)
    output = parser.add_argument_group("results")
    add_result_options(output)
    json_with_file(parser)
    logits = output.add_argument(
        "--logits", type=file_path, metavar="FILE", help="also write the logits of every view (.safetensors)"
    )
    complete(logits, "file")
    output.add_argument(
        "--per-class", action="store_true", help=f"print the table of classes even if there are over {_MOST_CLASSES}"
    )
    add_running_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.datasets.prepare.output import left_out
    from emim.distributed import is_first, process_group
    from emim.evaluation.outputs import score_clips
    from emim.evaluation.testing import describe_views, summarise, write_logits
    from emim.inference.recogniser import Recogniser
    from emim.models.trained_model import resolve_checkpoint

    for file in (args.output, args.logits):
        check_folder(file)
    first = is_first()
    tell = say if first else silent
    place = find_processes(args)
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
        return 0  # the first process names the missing clips

    result = summarise(
        outputs.score_SK,
        outputs.label_S,
        clip_list.classes,
        preprocessing=preprocessing,
        precision=precision,
        missing=outputs.missing,
    )
    lacking = left_out(args.data)
    about = {"checkpoint": str(checkpoint), "data": str(args.data), "split": split}
    if not args.json:
        print_result(
            result,
            per_class=args.per_class or len(clip_list.classes) <= _MOST_CLASSES,
            left_out=0 if lacking is None else lacking.clips,
        )
        if not args.per_class and len(clip_list.classes) > _MOST_CLASSES:
            tell(f"{len(clip_list.classes)} classes: --per-class prints the table of them, --output FILE writes it")
    tell(f"{seconds:.1f} s, {len(clip_list) / seconds:.1f} clips a second")
    give_result(
        args,
        lambda: {
            **about,
            "left_out_by_prepare": 0 if lacking is None else lacking.clips,
            **circumstances(clip_list, place.world, str(place), options.batch_size, seconds),
            **result.to_dict(),
        },
    )
    if args.logits is not None:
        seen = {"views": describe_views(preprocessing), "precision": precision}
        write_logits(args.logits, outputs, clip_list, {**about, **seen})
        tell(f"written to {args.logits}")
    tell_of_missing(result.missing, lacking, tell)
    return 1 if result.missing else 0


def print_result(result: TestResult, *, per_class: bool = True, left_out: int = 0) -> None:
    """Print the totals, below the table of classes.

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
