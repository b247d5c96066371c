"""`emim generate`: write a data set of generated motion clips."""

from __future__ import annotations

import argparse

from emim.cli.console import SubParsers, print_json, progress_bar, say
from emim.cli.options import (
    SHARE,
    Whole,
    add_option,
    add_renamed,
    complete,
    examples,
    file_path,
    shortened,
)
from emim.errors import ConfigError

__all__ = ["add_parser", "run"]

_MOST_CLIPS = 1_000_000


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "generate",
        parents=[common],
        help="write generated motion clips",
        description=(
            "Write a data set of generated clips in eleven classes of motion, as mp4 files in "
            "FOLDER/<split>/<class>/ with a manifest for each split. A single frame does not show the class, except "
            "in the clips of --solo and --upright."
        ),
        epilog=examples(
            "emim generate data/motion",
            "emim generate data/motion --clips-per-class train=80 --clips-per-class test=20 --frame-size 96",
        ),
    )
    folder = parser.add_mutually_exclusive_group(required=True)
    positional = folder.add_argument(
        "output",
        nargs="?",
        type=file_path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="folder to write; must be new, or hold the same data set",
    )
    complete(positional, "folder")
    add_option(folder, "--output", "instead of FOLDER")
    add_option(parser, "--json")
    parser.add_argument(
        "--clips-per-class",
        action="append",
        metavar="SPLIT=CLIPS",
        help="clips per class of a split (may be repeated; default: train=40 val=8 test=12)",
    )
    parser.add_argument(
        "--frame-size",
        type=Whole(16, 4096),
        metavar="PIXELS",
        default=112,
        help="side of the frames in pixels (default: 112)",
    )
    add_option(parser, "--frames", "default: 16", default=16)
    add_option(parser, "--seed", "default: 0", default=0)
    for name, meaning in (
        ("solo", "share of single-motion clips with one object"),
        ("upright", "share of clips whose objects start upright"),
        ("clear", "share of clips with large objects and long paths"),
    ):
        parser.add_argument(f"--{name}", type=SHARE, metavar="SHARE", default=0.0, help=f"{meaning} (default: 0)")
    parser.add_argument("--vary", action="store_true", help="vary length, size and aspect ratio from clip to clip")
    add_option(parser, "--workers", "default: by cores")
    add_renamed(parser, "--split", "--clips-per-class", convert=lambda text: [text])
    add_renamed(parser, "--size", "--frame-size", type=Whole(16, 4096))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.data.loader import default_workers
    from emim.datasets.synthetic import ClipOptions, write_dataset

    splits = parse_splits(args.clips_per_class or ["train=40", "val=8", "test=12"])
    options = ClipOptions(
        num_frames=args.frames,
        height=args.frame_size,
        width=args.frame_size,
        solo_share=args.solo,
        upright_share=args.upright,
        clear_share=args.clear,
        vary=args.vary,
    )
    with progress_bar("writing clips") as progress:
        summary = write_dataset(
            args.output,
            splits=splits,
            seed=args.seed,
            options=options,
            workers=args.workers or default_workers(),
            progress=progress,
        )
    state = "already there, unchanged" if summary.reused else "written"
    say(f"{sum(summary.clips.values())} clips {state}")
    if args.json:
        splits_written = {
            split: {"clips": summary.clips[split], "manifest": str(manifest)}
            for split, manifest in summary.manifests.items()
        }
        print_json({"folder": str(args.output), "already_there": summary.reused, "splits": splits_written})
        return 0
    for split, manifest in summary.manifests.items():
        print(f"{split}: {summary.clips[split]} clips, {manifest}")
    return 0


def parse_splits(texts: list[str]) -> dict[str, int]:
    """Parse `train=40` as {"train": 40}.

    Raises:
        ConfigError: a text of another form, or a number out of range.
    """
    splits: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        try:
            number = Whole(1, _MOST_CLIPS)(count)
        except argparse.ArgumentTypeError:
            number = 0
        if not name or not number:
            raise ConfigError(
                f"--clips-per-class {shortened(text)}: must be SPLIT=CLIPS with 1 to {_MOST_CLIPS:,} clips, such as "
                "train=40"
            )
        splits[name] = number
    return splits
