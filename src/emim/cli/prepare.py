"""`emim prepare`: manifests from a data set's own files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, print_table, progress_bar, say, warn
from emim.cli.options import (
    POSITIVE,
    Whole,
    add_option,
    add_renamed,
    complete,
    examples,
    file_path,
)

if TYPE_CHECKING:
    from emim.datasets.prepare import Prepared

__all__ = ["add_parser", "run"]

# Written out, because the registry needs an import that --help should not wait for.
_NAMES = ("ssv1", "ssv2", "kinetics", "diving48", "ucf101", "hmdb51", "folder")


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "prepare",
        parents=[common],
        help="read a known data set's layout and write manifests",
        description=(
            "Read a data set as its provider distributes it, and write train.csv, val.csv or test.csv, classes.txt "
            "and prepare.json (counts and missing files). docs/guides/datasets.md lists the files that each data set "
            "needs."
        ),
        epilog=examples(
            "emim prepare ssv2 ~/downloads/ssv2 -o data/ssv2",
            "emim prepare ucf101 ~/downloads/UCF101 -o data/ucf101 --fold 1 --resize 256",
        ),
    )
    parser.add_argument("dataset", choices=_NAMES, help="name of the data set; folder is a folder of classes")
    complete(parser.add_argument("root", type=file_path, help="the data set's folder"), "folder")
    add_option(parser, "--json", "the content of prepare.json")
    add_option(parser, "--output", "folder of the manifests, such as data/ssv2", required=True)
    add_renamed(parser, "--out", "--output", type=file_path)
    parser.add_argument(
        "--fold", type=POSITIVE, metavar="N", help="official split of ucf101 and hmdb51, 1 to 3 (default: 1)"
    )
    add_option(parser, "--split", "default: all that have labels", repeat=True)
    parser.add_argument("--strict", action="store_true", help="a missing video is an error")
    parser.add_argument(
        "--resize",
        type=Whole(1, 8192),
        metavar="PIXELS",
        help="re-encode to this short side, into videos/ of the output",
    )
    add_option(parser, "--workers", "for --resize; default: by cores")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.datasets.prepare import prepare
    from emim.datasets.prepare.output import REPORT_NAME

    result = prepare(
        args.dataset,
        args.root,
        args.output,
        splits=None if args.split is None or "all" in args.split else args.split,
        fold=args.fold,
        resize=args.resize,
        strict=args.strict,
        workers=args.workers or (1 if args.resize is None else _default_workers()),
        bar=progress_bar,
    )
    report_gaps(result)
    if args.json:
        print((result.out / REPORT_NAME).read_text(encoding="utf-8"), end="", flush=True)
    else:
        print_result(result)
    return 0


def _default_workers() -> int:
    from emim.data.loader import default_workers

    return max(1, default_workers())


def print_result(result: Prepared) -> None:
    """Print the table of splits."""
    rows = [
        (
            str(part.manifest),
            f"{part.found:,}",
            f"{part.listed:,}",
            "-" if part.published is None else f"{part.published:,}",
            f"{len(part.missing) + len(part.failed):,}",
        )
        for part in result.splits.values()
    ]
    state = "written" if result.changed else "already there, unchanged"
    title = f"{result.provider.title}, {len(result.classes)} classes: {state}"
    print_table(title, ("manifest", "clips", "listed", "published", "left out"), rows)


def report_gaps(result: Prepared) -> None:
    """Print notes and missing files on standard error."""
    from emim.datasets.prepare import describe_missing

    for note in result.notes:
        say(f"note: {note}")
    for split, part in result.splits.items():
        if part.missing:
            warn(describe_missing(split, part.listed, part.missing, part.where))
        if part.failed:
            path, reason = part.failed[0]
            first = f"{path}: {reason}" if len(part.failed) == 1 else f"first of all {path}: {reason}"
            warn(f"{split}: {len(part.failed)} of {part.listed} videos cannot be re-encoded: {first}")
    if any(part.missing or part.failed for part in result.splits.values()):
        say(f"all of them are listed in {result.out / 'prepare.json'}")
