"""`emim doctor`: decode every video of a data set and list the faults."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, give_result, progress_bar, say
from emim.cli.labelled import add_columns_option
from emim.cli.options import (
    POSITIVE,
    Real,
    add_option,
    add_result_options,
    complete,
    examples,
    file_path,
    json_with_file,
)
from emim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from emim.data.manifest import ClipList
    from emim.datasets.doctor import DoctorReport

__all__ = ["add_parser", "run"]

_MAX_ROWS = 40
_WIDTH = 110
_SPLIT_NAMES = frozenset({"train", "val", "validation", "test"})


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "doctor",
        parents=[common],
        help="examine every video of a data set",
        description=(
            "Decode every video completely and list those that are unreadable, truncated, damaged, too short, "
            "duplicates, have a doubtful frame rate, or a label that contradicts their folder."
        ),
        epilog=examples(
            "emim doctor clips.csv --output report.json",
            "emim doctor mine --split train --quarantine clean.csv",
            note="The exit status is 1 if there are errors.",
        ),
    )
    data = parser.add_argument("data", type=file_path, help="folder of classes, manifest, or any folder of videos")
    complete(data, "file")
    add_columns_option(parser)
    add_option(parser, "--split", "default: all")
    add_result_options(parser, "all findings as JSON")
    json_with_file(parser)
    quarantine = parser.add_argument(
        "--quarantine", type=file_path, metavar="FILE.csv", help="write a manifest of the clips that can be used"
    )
    complete(quarantine, "file")
    add_option(parser, "--workers", "default: by cores")
    parser.add_argument(
        "--min-frames", type=POSITIVE, metavar="N", default=2, help="fewest frames of a clip (default: 2)"
    )
    parser.add_argument("--fps", type=Real(0, 1000, above=True), help="frame rate that all videos should have")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.datasets.doctor import examine

    if args.split == "all":
        args.split = None
    clip_list, is_labelled = _load(args)
    if args.quarantine is not None:
        _check_quarantine(args, clip_list, is_labelled)
    for file in (args.output, args.quarantine):
        check_folder(file)
    say(clip_list.note or f"{len(clip_list)} clips from {args.data}")
    with progress_bar("decoding", len({entry.path for entry in clip_list})) as progress:
        report = examine(
            clip_list,
            workers=args.workers or _default_workers(),
            min_frames=args.min_frames,
            expected_fps=args.fps,
            progress=progress,
        )
    if not args.json:
        print_report(report)
    give_result(args, report.to_dict)
    if args.quarantine is not None:
        _write_clean(args, report)
    return 1 if report.count("error") else 0


def _default_workers() -> int:
    from emim.data.loader import default_workers  # brings torch, which nothing else here needs

    return default_workers()


def _load(args: argparse.Namespace) -> tuple[ClipList, bool]:
    """The clips, and True if they have labels."""
    from emim.data.folder import has_splits, load_clips, split_clips
    from emim.data.manifest import is_manifest, read_manifest
    from emim.datasets.doctor import list_videos

    if is_manifest(args.data):
        clip_list = read_manifest(args.data, columns=args.columns, check_files=False)
        if args.split is not None and not has_splits(clip_list):
            raise ConfigError("--split needs a folder or a manifest with a column split; give that split's manifest")
        return split_clips(clip_list, args.split), True
    if args.columns is not None:
        raise ConfigError("--columns is for manifests")
    try:
        return load_clips(args.data, split=args.split), True
    except DataError:
        if args.split is not None or not os.path.isdir(args.data):  # noqa: PTH112 takes long names
            raise
        return list_videos(args.data), False


def _check_quarantine(args: argparse.Namespace, clip_list: ClipList, is_labelled: bool) -> None:
    """Check --quarantine before hours of decoding, not after."""
    from emim.data.class_list import CLASS_LIST_NAME
    from emim.data.manifest import relative_path

    if not is_labelled:
        raise ConfigError("--quarantine needs labels: give a manifest or a folder of classes")
    if args.quarantine.suffix.lower() != ".csv":
        raise ConfigError(f"--quarantine {args.quarantine}: the name of a manifest ends in .csv")
    if args.quarantine.absolute() == args.data.absolute():
        raise ConfigError(f"--quarantine {args.quarantine}: would overwrite the manifest that is examined")
    parts = [Path(relative_path(entry.path, clip_list.root)).parts for entry in clip_list]
    if args.data.is_dir() and args.split is None and all(part[0] in _SPLIT_NAMES and len(part) > 2 for part in parts):
        raise ConfigError("--quarantine would mix training and test clips in one manifest; give --split as well")
    ours, theirs = (path.parent / CLASS_LIST_NAME for path in (args.quarantine, args.data))
    if args.data.is_file() and theirs.is_file() and ours.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise ConfigError(f"{ours}: is another class list than {theirs}; choose another folder for --quarantine")


def print_report(report: DoctorReport) -> None:
    """Print the table of problems, advice on each kind, and the totals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from emim.data.manifest import relative_path
    from emim.datasets.doctor import ADVICE

    console = Console(width=_WIDTH, highlight=False, markup=False, emoji=False)
    if report.problems:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("severity")
        table.add_column("kind")
        table.add_column("video", overflow="fold", max_width=40)
        table.add_column("problem", overflow="fold")
        for problem in report.problems[:_MAX_ROWS]:
            rows = f" (row {', '.join(map(str, problem.rows))})" if problem.rows else ""
            name = relative_path(problem.path, report.clip_list.root)
            table.add_row(problem.severity, problem.kind, name + rows, problem.reason)
        console.print(table)
        if len(report.problems) > _MAX_ROWS:
            print(f"and {len(report.problems) - _MAX_ROWS} more; --output FILE writes all of them\n")
        print("What to do:")
        for kind in report.counts():
            print(f"  {kind}: {ADVICE[kind]}")
        print()
    print(summary_line(report))
    print(lengths_line(report))


def summary_line(report: DoctorReport) -> str:
    """Videos, errors and warnings, with the number of each kind."""
    videos = len({entry.path for entry in report.clip_list})
    found = ", ".join(
        f"{report.count(severity)} {severity}{'' if report.count(severity) == 1 else 's'}"
        for severity in ("error", "warning", "note")
        if report.count(severity)
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts().items())
    line = f"{videos} videos: {found or 'nothing wrong'}"
    return textwrap.fill(f"{line} ({kinds})", _WIDTH, subsequent_indent="  ") if kinds else line


def lengths_line(report: DoctorReport) -> str:
    """Amount decoded, and the range of frame rates, lengths and sizes."""
    from emim.datasets.doctor import summary_statistics

    speed = report.decoded_frames / report.wall_seconds if report.wall_seconds else 0.0
    line = f"{report.hours:.2f} h of video; {report.decoded_frames} frames decoded at {speed:.0f} frames/s"
    spread = summary_statistics(report.facts.values())
    for name, title in (("fps", "frames per second"), ("frames", "frames"), ("seconds", "seconds")):
        if name in spread:
            low, middle, high = (f"{spread[name][key]:.4g}" for key in ("min", "median", "max"))
            line += f"\n{title}: {low} to {high}, median {middle}"
    if spread["sizes"]:
        listed = [f"{size} ({count})" for size, count in list(spread["sizes"].items())[:4]]
        more = len(spread["sizes"]) - len(listed)
        line += f"\nsizes: {', '.join(listed)}{f' and {more} more' if more else ''}"
    return line


def _write_clean(args: argparse.Namespace, report: DoctorReport) -> None:
    import shutil

    from emim.data.class_list import CLASS_LIST_NAME, class_list_text, needs_class_list
    from emim.data.manifest import write_manifest
    from emim.utils import atomic_write

    if not len(report.clean):
        raise DataError(f"{args.quarantine}: not written, because no clip can be used")
    ours, theirs = (path.parent / CLASS_LIST_NAME for path in (args.quarantine, args.data))
    try:
        if args.data.is_file() and theirs.is_file() and not ours.exists():
            with atomic_write(ours) as temporary:
                shutil.copyfile(theirs, temporary)
        elif needs_class_list(report.clean.classes) and not ours.exists():
            with atomic_write(ours) as temporary:
                temporary.write_text(class_list_text(report.clean.classes), encoding="utf-8")
        write_manifest(args.quarantine, report.clean)
    except OSError as error:
        raise ConfigError(f"{args.quarantine}: cannot be written ({error.strerror})") from error
    left_out = len(report.clip_list) - len(report.clean)
    say(f"{len(report.clean)} clips written to {args.quarantine}, {left_out} left out")
    before = report.clip_list.counts()
    lost = [name for name, count in report.clean.counts().items() if not count and before[name]]
    if lost:
        say(f"no clip is left of: {', '.join(lost)}")
