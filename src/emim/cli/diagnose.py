"""`emim diagnose`: test whether a trained network uses motion."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Sequence
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
from emim.cli.options import add_option, add_result_options, examples, json_with_file

if TYPE_CHECKING:
    from emim.evaluation.diagnosis import Diagnosis
    from emim.evaluation.diagnosis.statistics import Interval

__all__ = ["add_parser", "run"]

_TITLES = {
    "as_is": "as they are",
    "frozen": "frozen",
    "shuffled": "shuffled",
    "reversed": "reversed",
    "motion_zeroed": "motion zeroed",
    "appearance_zeroed": "appearance zeroed",
}
_MOST_SWAPS = 20
"""Pairs of classes that are printed; the JSON has all."""
_WIDTH = 80


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "diagnose",
        parents=[common],
        help="test whether a trained network uses motion",
        description=(
            "Test the same clips as they are, frozen to the middle frame, with frames shuffled and reversed, and with "
            "the motion features or the appearance path of EMIM zeroed: accuracy of each with 95 % bootstrap "
            "intervals, and the pairs of classes that swap under reversal."
        ),
        epilog=examples(
            "emim diagnose runs/mine/model.safetensors --data mine",
            "emim diagnose bundled --data clips.csv --output diagnosis.json",
            note="The exit status is 1 if a clip could not be read.",
        ),
    )
    add_clip_options(parser)
    add_option(parser, "--seed", "of the shuffles and the bootstrap; default: 0", default=0)
    output = parser.add_argument_group("results")
    add_result_options(output, "the result as JSON, with every clip's predicted classes")
    json_with_file(parser)
    add_running_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.datasets.prepare.output import left_out
    from emim.distributed import is_first, process_group
    from emim.evaluation.diagnosis import diagnose
    from emim.inference.recogniser import Recogniser
    from emim.models.trained_model import resolve_checkpoint

    check_folder(args.output)
    first = is_first()
    tell = say if first else silent
    place = find_processes(args)
    checkpoint = resolve_checkpoint(args.checkpoint)
    precision = find_precision(args.precision, place.device.type)
    recogniser = Recogniser.load(checkpoint, device=place.device, precision=precision)
    split, clip_list = find_clips(args, recogniser)
    options = find_scoring(args, recogniser, place.devices)
    tell(clip_list.note or f"{len(clip_list)} clips from {args.data}")
    tell(f"{precision} on {place}")

    with process_group(place) as members:
        started = time.monotonic()
        with progress_bar("testing", len(clip_list)) if first else nullcontext(no_progress) as progress:
            diagnosis = diagnose(recogniser, clip_list, options, seed=args.seed, group=members, progress=progress)
        seconds = time.monotonic() - started
    if diagnosis is None:
        return 0  # the first process names the missing clips

    if not args.json:
        print_diagnosis(diagnosis)
    tell(f"{seconds:.1f} s, {len(clip_list) / seconds:.1f} clips a second in all conditions together")
    lacking = left_out(args.data)
    give_result(
        args,
        lambda: {
            "checkpoint": str(checkpoint),
            "data": str(args.data),
            "split": split,
            "left_out_by_prepare": 0 if lacking is None else lacking.clips,
            **circumstances(clip_list, place.world, str(place), options.batch_size, seconds),
            **diagnosis.to_dict(),
        },
    )
    tell_of_missing(diagnosis.missing, lacking, tell)
    return 1 if diagnosis.missing else 0


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the table of conditions, the conclusion, and the pairs of classes that swap."""
    count = len(diagnosis.clips)
    rows = []
    for condition in diagnosis.ablations:
        accuracy, difference = condition.accuracy, condition.difference
        rows.append(
            (
                _TITLES[condition.name],
                percent(accuracy.value),
                _shares(accuracy.interval),
                "" if difference is None else _points(difference.value),
                "" if difference is None else " to ".join(map(_points, difference.interval)),
            )
        )
    rows.append(("chance", percent(diagnosis.chance), "", "", ""))
    title = f"Diagnosis with {views_text(diagnosis.preprocessing, diagnosis.precision)}, seed {diagnosis.seed}"
    header = f"{count} clip{'s' * (count != 1)}"
    print_table(title, (header, "accuracy", "95 % interval", "points", "95 % interval"), rows)
    if diagnosis.missing:
        count = len(diagnosis.missing)
        print_text([f"{count} clip{'s' * (count != 1)} could not be read, in no figure."])
    print_text(diagnosis.conclusion)
    print()
    print_swaps(diagnosis)
    print()
    print_text(diagnosis.notes)


def print_swaps(diagnosis: Diagnosis) -> None:
    """Print the pairs of classes that swap under reversal, the clearest first."""
    names = diagnosis.classes
    rows = []
    for swap in diagnosis.swaps[:_MOST_SWAPS]:
        (a, b), (a_to_b, b_to_a), (clips_a, clips_b) = swap.classes, swap.shares, swap.clips
        rows.append((f"{names[a]} / {names[b]}", f"{a_to_b:.0%} of {clips_a}", f"{b_to_a:.0%} of {clips_b}"))
    if not rows:
        print_text(["No pair of classes swaps when the frames are reversed."])
        return
    print_table("Classes that swap when the frames are reversed", ("a / b", "a named b", "b named a"), rows)
    if len(diagnosis.swaps) > _MOST_SWAPS:
        print_text([f"{len(diagnosis.swaps) - _MOST_SWAPS} more pairs are in the JSON result."])


def print_text(sentences: Sequence[str]) -> None:
    """Print sentences on standard output, each wrapped as a paragraph."""
    for sentence in sentences:
        print(textwrap.fill(sentence, _WIDTH))


def _shares(interval: Interval) -> str:
    return " to ".join(map(percent, interval))


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
