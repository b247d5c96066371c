"""`emim prepare`: manifests from a data set's own files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, positive, print_table, progress_bar, say

if TYPE_CHECKING:
    from emim.datasets.prepare import Prepared

# Written out, because the registry needs an import that --help should not wait for.
_NAMES = ("ssv1", "ssv2", "kinetics", "diving48", "ucf101", "hmdb51", "folder")


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "prepare",
        parents=[common],
        help="read a known data set's layout and write manifests",
        description=(
            "Read a data set as its provider distributes it, and write train.csv, val.csv or test.csv, classes.txt "
            "and prepare.json (counts and missing files). docs/datasets.md lists the files that each data set needs."
        ),
    )
    parser.add_argument("dataset", choices=_NAMES)
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write, such as data/ssv2")
    parser.add_argument("--fold", type=positive, help="official split of ucf101 and hmdb51, 1 to 3 (default 1)")
    parser.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test"),
        help="only this split, may be repeated (default: all that have labels)",
    )
    parser.add_argument("--strict", action="store_true", help="a missing video is an error")
    parser.add_argument(
        "--resize", type=positive, metavar="N", help="re-encode to a short side of N pixels, into OUT/videos"
    )
    parser.add_argument("--workers", type=positive, help="processes for --resize (default: by cores)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.datasets.prepare import prepare

    result = prepare(
        args.dataset,
        args.root,
        args.out,
        splits=args.split,
        fold=args.fold,
        resize=args.resize,
        strict=args.strict,
        workers=args.workers or (1 if args.resize is None else _default_workers()),
        bar=progress_bar,
    )
    print_result(result)
    return 0


def _default_workers() -> int:
    from emim.data.loader import default_workers

    return max(1, default_workers())


def print_result(result: Prepared) -> None:
    """Print the table of splits; notes and missing files go to standard error."""
    from emim.datasets.prepare import describe_missing

    for note in result.notes:
        say(f"note: {note}")
    for split, part in result.splits.items():
        if part.missing:
            say(f"warning: {describe_missing(split, part.listed, part.missing, part.where)}")
        if part.failed:
            path, reason = part.failed[0]
            first = f"{path}: {reason}" if len(part.failed) == 1 else f"the first is {path}: {reason}"
            say(f"warning: {split}: {len(part.failed)} of {part.listed} videos cannot be re-encoded: {first}")
    if any(part.missing or part.failed for part in result.splits.values()):
        say(f"all of them are listed in {result.out / 'prepare.json'}")
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
