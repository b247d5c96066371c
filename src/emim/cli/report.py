"""`emim report`: one page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, print_json, progress_bar, say
from emim.cli.labelled import add_columns_option, find_clips, find_precision, tell_of_missing
from emim.cli.options import (
    PRECISION_FOR_TESTS,
    Whole,
    add_device_options,
    add_option,
    add_renamed,
    complete,
    examples,
    file_path,
)
from emim.cli.predict import find_device
from emim.environment import let_waiting_threads_sleep
from emim.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from emim.data.manifest import ClipList
    from emim.inference.recogniser import Recogniser
    from emim.report import Measurement
    from emim.training.run_folder import RunRecord

__all__ = ["PAGE_FILE", "add_parser", "run", "write_report"]

PAGE_FILE = "report.html"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "report",
        parents=[common],
        help="write a page about a trained run",
        description=(
            "Write one self-contained HTML file about a run: results, curves, confusion, classes, the clips predicted "
            "most confidently with their motion, whether the network uses motion, configuration, data, timing. The "
            "report of an unfinished run shows what is there."
        ),
        epilog=examples(
            "emim report runs/mine",
            "emim report runs/mine --data test.csv -o mine.html --show-clips 6",
            note="The exit status is 0 if the page was written, even if parts of it are missing.",
        ),
    )
    complete(parser.add_argument("folder", metavar="RUN", type=file_path, help="folder of a run"), "folder")
    add_option(parser, "--data", "to test on; default: the run's validation clips")
    add_columns_option(parser)
    add_option(parser, "--split", "of --data; default: test of a folder or of a column split, else all of a manifest")
    add_option(parser, "--json", "where the page is, and the results on it")
    add_option(parser, "--output", f"default: {PAGE_FILE} in the run's folder")
    shown = Whole(0, 1000)
    parser.add_argument(
        "--show-clips",
        type=shown,
        metavar="N",
        default=4,
        help="number of correctly predicted clips to show, and of wrongly predicted ones (default: 4)",
    )
    add_renamed(parser, "--clips", "--show-clips", type=shown)
    parser.add_argument("--no-diagnosis", action="store_true", help="do not test whether the network uses motion")
    running = parser.add_argument_group("running")
    add_device_options(running, PRECISION_FOR_TESTS)
    add_option(running, "--batch-size", "default: 8 on the CPU, 32 on a GPU")
    add_option(running, "--workers", "default: by cores")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    let_waiting_threads_sleep()
    from emim.training.run_folder import read_run

    record = read_run(args.folder)
    output = args.output or args.folder / PAGE_FILE
    check_folder(output)
    gaps: list[str] = []
    recogniser = _load(args, record, gaps)
    clip_list = None if recogniser is None else _find_clips(args, record, recogniser, gaps)
    measurement = None
    if recogniser is not None and clip_list is not None:
        measurement = _measure(args, recogniser, clip_list, gaps)
    size_text = write_report(record, recogniser, measurement, output, clips=args.show_clips, gaps=gaps)
    if args.json:
        tested = None if measurement is None else measurement.test.to_dict()
        diagnosis = None if measurement is None or measurement.diagnosis is None else measurement.diagnosis.to_dict()
        print_json({"report": str(output), "test": tested, "diagnosis": diagnosis, "missing": [*record.gaps, *gaps]})
    else:
        print(f"{output} ({size_text})")
    for gap in (*record.gaps, *gaps):
        say(f"missing: {gap}")
    if measurement is not None:
        tell_of_missing(measurement.test.missing, None, say)
    return 0


def write_report(
    record: RunRecord,
    recogniser: Recogniser | None,
    measurement: Measurement | None,
    output: Path,
    *,
    clips: int,
    gaps: list[str] | None = None,
) -> str:
    """Draw the clips and write the page; returns its size in words.

    Raises:
        ConfigError: the file cannot be written.
    """
    from emim.report import gather, write_page
    from emim.report.formatting import size

    with progress_bar("drawing motion") as progress:
        gathered = gather(record, recogniser, measurement, clips=clips, gaps=gaps or (), progress=progress)
    return size(write_page(gathered, output))


def _load(args: argparse.Namespace, record: RunRecord, gaps: list[str]) -> Recogniser | None:
    from emim.inference.recogniser import Recogniser

    if record.card is None:
        return None
    device = find_device(args.device)
    try:
        return Recogniser.load(record.model_file, device=device, precision=find_precision(args.precision, device.type))
    except CheckpointError as error:
        gaps.append(f"The network could not be tested: {error}.")
        return None


def _find_clips(
    args: argparse.Namespace, record: RunRecord, recogniser: Recogniser, gaps: list[str]
) -> ClipList | None:
    """The clips of --data, whose errors end the command; otherwise those of the run, if they can be loaded."""
    from emim.training.run_folder import validation_clips

    if args.data is not None:
        _, clip_list = find_clips(args, recogniser)
    elif record.config is None:
        return None
    else:
        try:
            clip_list = validation_clips(record.config, recogniser.classes)
        except DataError as error:
            gaps.append(
                f"The network was not tested: {error}; give labelled clips with --data (a folder of classes, or a "
                "manifest)."
            )
            return None
    say(clip_list.note or f"{len(clip_list)} clips from {clip_list.source}")
    return clip_list


def _measure(
    args: argparse.Namespace, recogniser: Recogniser, clip_list: ClipList, gaps: list[str]
) -> Measurement | None:
    from emim.data.loader import default_workers
    from emim.inference.scoring import ScoringOptions
    from emim.report import measure

    workers = default_workers() if args.workers is None else args.workers

    try:
        with progress_bar("testing", len(clip_list)) as progress:
            return measure(
                recogniser,
                clip_list,
                ScoringOptions(args.batch_size, workers),
                diagnosis=not args.no_diagnosis,
                progress=progress,
            )
    except (DataError, CheckpointError) as error:  # no clip can be read, or the weights are broken
        gaps.append(f"The network could not be tested: {error}.")
        return None
