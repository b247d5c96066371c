"""`emim predict`: name the action in videos."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, positive, say
from emim.errors import DataError, VideoError

if TYPE_CHECKING:
    from emim.evaluation.recogniser import Prediction

_BAR_WIDTH = 24


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "predict",
        parents=[common],
        help="name the action in videos",
        description=(
            "Name the action in videos. Without --checkpoint a small model that comes with the package names "
            "one of eleven motions. A video that cannot be read is reported, the others are predicted, and the "
            "exit status is 1."
        ),
    )
    parser.add_argument("videos", nargs="+", type=Path, help="video files, folders of videos, folders of frames")
    parser.add_argument("--checkpoint", help="model.safetensors of a run (default: the bundled model)")
    parser.add_argument("--topk", type=positive, default=5, help="classes to show (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object per video on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.evaluation.recogniser import Recogniser

    recogniser = Recogniser.load(args.checkpoint)
    failed = 0
    for given in args.videos:
        try:
            for path in find_videos(given):
                try:
                    predictions = recogniser.predict(path, args.topk)
                except VideoError as error:
                    failed += 1
                    say(f"emim predict: {error}")
                else:
                    show(path, predictions, as_json=args.json)
        except DataError as error:
            failed += 1
            say(f"emim predict: {error}")
    return 1 if failed else 0


def find_videos(path: Path) -> Iterator[Path]:
    """The video itself, or every video and frame folder below a folder, sorted.

    Raises:
        DataError: a folder without videos.
    """
    from emim.data.video import VIDEO_SUFFIXES, is_frame_folder

    if not path.is_dir() or is_frame_folder(path):
        yield path
        return
    found = False
    for inner in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
        is_video = inner.suffix.lower() in VIDEO_SUFFIXES and inner.is_file()
        if not hidden and (is_video or (inner.is_dir() and is_frame_folder(inner))):
            found = True
            yield inner
    if not found:
        raise DataError(
            f"{path}: no videos in this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))} and folders of frames)"
        )


def show(path: Path, predictions: list[Prediction], *, as_json: bool) -> None:
    """One video's predictions on standard output, as a line of JSON or for reading."""
    if as_json:
        listed = [{"label": item.label, "score": round(item.score, 6)} for item in predictions]
        print(json.dumps({"path": str(path), "predictions": listed}), flush=True)
        return
    width = max(len(item.label) for item in predictions)
    print(path)
    for item in predictions:
        bar = "█" * round(item.score * _BAR_WIDTH)
        print(f"  {item.label:<{width}}  {item.score:6.1%}  {bar}")
    sys.stdout.flush()
