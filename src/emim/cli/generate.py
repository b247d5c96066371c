"""`emim generate`: write a data set of generated motion clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from emim.cli.console import SubParsers, natural, positive, progress_bar, say
from emim.errors import ConfigError


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "generate",
        parents=[common],
        help="write generated motion clips",
        description=(
            "Write a data set of generated clips in eleven classes of motion, as mp4 files in "
            "<root>/<split>/<class>/ with a manifest for each split. Single frames do not reveal the class, "
            "except for what --solo and --upright give away."
        ),
    )
    parser.add_argument("root", type=Path, help="folder to write; must be new, or hold the same data set")
    parser.add_argument(
        "--split",
        action="append",
        metavar="NAME=CLIPS",
        help="clips per class of a split, may be repeated (default train=40 val=8 test=12)",
    )
    parser.add_argument("--size", type=positive, default=112, help="frame side in pixels (default 112)")
    parser.add_argument("--frames", type=positive, default=16, help="frames per clip (default 16)")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--solo", type=float, default=0.0, help="share of single-motion clips with one object")
    parser.add_argument("--upright", type=float, default=0.0, help="share of clips whose objects start upright")
    parser.add_argument("--clear", type=float, default=0.0, help="share of clips with large objects and long paths")
    parser.add_argument("--vary", action="store_true", help="vary length, size and aspect from clip to clip")
    parser.add_argument("--workers", type=positive, help="processes (default: by cores)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.data.loader import default_workers
    from emim.datasets.synthetic import ClipOptions, write_dataset

    splits = parse_splits(args.split or ["train=40", "val=8", "test=12"])
    options = ClipOptions(
        num_frames=args.frames,
        height=args.size,
        width=args.size,
        solo_share=args.solo,
        upright_share=args.upright,
        clear_share=args.clear,
        vary=args.vary,
    )
    with progress_bar("writing clips") as progress:
        summary = write_dataset(
            args.root,
            splits=splits,
            seed=args.seed,
            options=options,
            workers=args.workers or default_workers(),
            progress=progress,
        )
    state = "already there, unchanged" if summary.reused else "written"
    say(f"{sum(summary.clips.values())} clips {state}")
    for split, manifest in summary.manifests.items():
        print(f"{split}: {summary.clips[split]} clips, {manifest}")
    return 0


def parse_splits(texts: list[str]) -> dict[str, int]:
    """`train=40` to {"train": 40}."""
    splits: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not name or not count.isdigit() or int(count) < 1:
            raise ConfigError(f"--split {text!r} must be NAME=CLIPS with at least one clip, such as train=40")
        splits[name] = int(count)
    return splits
