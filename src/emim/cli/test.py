"""`emim test`: accuracy of a trained network on labelled clips."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emim.cli.console import (
    SubParsers,
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
    from emim.evaluation.testing import TestResult


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "test",
        parents=[common],
        help="test a trained network on labelled clips",
        description="Test a trained network: top-1, top-5, mean-class accuracy and a table of classes.",
    )
    parser.add_argument("checkpoint", help="model.safetensors of a run, or 'bundled'")
    parser.add_argument("--data", required=True, type=Path, help="folder of classes, or manifest CSV")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part (default: test of a folder, all of a manifest)",
    )
    parser.add_argument("--clips", type=positive, help="test clips per video (default: as trained)")
    parser.add_argument("--crops", type=positive, choices=(1, 3), help="test crops per clip (default: as trained)")
    parser.add_argument("--size", type=positive, help="side of the network input in pixels (default: as trained)")
    parser.add_argument("--batch-size", type=positive, default=8, help="videos per batch (default 8)")
    parser.add_argument("--workers", type=natural, help="loader processes (default: by cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from emim.data.folder import load_clips
    from emim.data.loader import default_workers
    from emim.evaluation.recogniser import Recogniser
    from emim.evaluation.testing import test_model

    recogniser = Recogniser.load(args.checkpoint)
    card = recogniser.card
    is_manifest = args.data.suffix.lower() == ".csv"
    split: Split | Literal["all"] = args.split or ("all" if is_manifest else "test")
    trained_with = card.config.get("data", {}), card.config.get("trainer", {})
    clip_list = load_clips(
        args.data,
        split=None if split == "all" else split,
        classes=card.classes,
        val_share=trained_with[0].get("val_share", 0.2),
        seed=trained_with[1].get("seed", 0),
    )
    say(clip_list.note or f"{len(clip_list)} clips from {args.data}")
    views = {key: value for key in ("clips", "crops", "size") if (value := getattr(args, key)) is not None}
    with progress_bar("testing", len(clip_list)) as progress:
        result = test_model(
            recogniser.model,
            clip_list,
            dataclasses.replace(recogniser.preprocessing, **views),
            device=recogniser.device,
            batch_size=args.batch_size,
            workers=default_workers() if args.workers is None else args.workers,
            progress=progress,
        )
    print_result(result)
    if args.json is not None:
        described = {"checkpoint": str(args.checkpoint), "data": str(args.data), "split": split}
        write_json(args.json, {**described, **result.to_dict()})
        say(f"written to {args.json}")
    for path, reason in result.missing:
        say(f"missing: {reason if str(path) in reason else f'{path}: {reason}'}")
    return 1 if result.missing else 0


def print_result(result: TestResult) -> None:
    """The table of classes with the totals below it."""
    rows = [(row.name, str(row.clips), percent(row.top1)) for row in result.per_class]
    rows += [
        ("top-1", str(result.clips), percent(result.top1)),
        ("top-5", str(result.clips), percent(result.top5)),
        ("mean over classes", str(result.clips), percent(result.mean_class)),
    ]
    if result.missing:
        rows.append(("missing, in no figure", str(len(result.missing)), "-"))
    print_table(f"Test with {result.views} view(s) a video", ("class", "clips", "accuracy"), rows)
