"""`emim predict`: recognise the action in videos."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emim.cli.console import JsonLines, SubParsers, check_folder, complain, progress_bar, say
from emim.cli.options import (
    PRECISION_FOR_SPEED,
    add_checkpoint,
    add_device_options,
    add_option,
    add_result_options,
    complete,
    examples,
    file_path,
)
from emim.environment import let_waiting_threads_sleep, resolve_device
from emim.errors import ConfigError, DataError, VideoError

if TYPE_CHECKING:
    import torch

    from emim.inference.recogniser import Predictions, Recogniser
    from emim.precision import Precision

__all__ = ["add_parser", "add_running_options", "find_device", "find_videos", "load_recogniser", "run", "show"]


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "predict",
        parents=[common],
        help="recognise the action in videos",
        description=(
            "Recognise the action in videos. Without --checkpoint, the small model that comes with the package "
            "recognises eleven kinds of motion. A video that cannot be read is reported, the others are predicted, and "
            "the exit status is 1."
        ),
        epilog=examples(
            "emim predict clip.mp4",
            "emim predict videos/ --checkpoint runs/mine/model.safetensors --json > predictions.jsonl",
            "emim predict clip.mp4 --explain why.png",
        ),
    )
    videos = parser.add_argument(
        "videos", nargs="+", type=file_path, help="video files, folders of videos, folders of frames"
    )
    complete(videos, "file")
    add_checkpoint(parser)
    add_option(parser, "--topk", "default: 5", default=5)
    add_result_options(parser, "the results as JSON", json="one object per line for each video")
    picture = parser.add_argument(
        "--explain",
        type=file_path,
        metavar="PICTURE",
        help="write a picture of the frames and regions that the prediction is based on, beside the motion: .png or "
        ".jpg for one video, a folder for several",
    )
    complete(picture, "file")
    add_running_options(parser)
    parser.set_defaults(run=run)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of device, precision, batches and workers, for `load_recogniser`."""
    running = parser.add_argument_group("running")
    add_device_options(running, PRECISION_FOR_SPEED)
    add_option(running, "--batch-size", "default: 8 on the CPU, 32 on a GPU")
    add_option(running, "--workers", "default: by cores, 0 for few videos")


def load_recogniser(args: argparse.Namespace) -> Recogniser:
    """Load the network of --checkpoint with --device and --precision.

    Raises:
        ConfigError: there is no such device.
        CheckpointError: the file is not a trained model.
    """
    from emim.inference.recogniser import Recogniser

    device = find_device(args.device)
    return Recogniser.load(args.checkpoint, device=device, precision=find_precision(args.precision, device.type))


def find_device(name: str) -> torch.device:
    """The device of --device; see `emim.environment.resolve_device`."""
    return resolve_device(name, option="--device")


def find_precision(wanted: Literal["auto"] | Precision, device_type: str) -> Precision:
    """The number format of --precision; see `emim.precision.resolve_precision`."""
    from emim.precision import resolve_precision

    return resolve_precision(wanted, device_type)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    let_waiting_threads_sleep()
    from emim.data.prefetch import lost_workers_named

    recogniser = load_recogniser(args)
    videos, failed = _list_videos(args.videos)
    many = len(videos) > 1
    pictures = _name_pictures(args.explain, videos)
    started = time.monotonic()
    bar = progress_bar("predicting", len(videos)) if many else nullcontext(_no_bar)
    with JsonLines(args) as lines, lost_workers_named(), bar as progress:
        outcomes = recogniser.predict_many(videos, args.topk, workers=args.workers, batch_size=args.batch_size)
        for done, (path, outcome) in enumerate(outcomes, start=1):
            if isinstance(outcome, VideoError):
                failed += 1
                complain(f"emim predict: {outcome}")
            else:
                lines.write(outcome.to_dict())
                if not args.json:
                    show(outcome)
                if pictures:
                    explain(recogniser, path, pictures[done - 1])
            progress(done, len(videos))
    if many:
        seconds = time.monotonic() - started
        say(f"{len(videos)} videos in {seconds:.1f} s ({len(videos) / seconds:.1f} videos/s), {failed} failed")
    return 1 if failed else 0


def explain(recogniser: Recogniser, video: Path, picture: Path) -> None:
    """Write the explanation of a video's prediction, and print where it is."""
    from emim.motion.explanation import explain

    explanation = explain(recogniser, video)
    explanation.save(picture)
    say(f"{picture}: {explanation.describe()}")


def _name_pictures(given: Path | None, videos: list[Path]) -> list[Path]:
    """Paths of the pictures: one for each video, or none; several go into a folder, named after the videos.

    Raises:
        ConfigError: the name does not suit the number of videos, or the folder cannot be made.
    """
    if given is None:
        return []
    named = given.suffix.lower() in (".png", ".jpg", ".jpeg")
    if named and len(videos) > 1:
        raise ConfigError(f"--explain {given}: {len(videos)} videos need a folder, not a file")
    if named or not given.suffix:
        taken: Counter[str] = Counter()
        pictures = []
        for video in videos:
            taken[video.stem] += 1
            number = f"-{taken[video.stem]}" if taken[video.stem] > 1 else ""
            pictures.append(given if named else given / f"{video.stem}{number}.png")
        check_folder(pictures[0] if pictures else None)
        return pictures
    raise ConfigError(f"--explain {given}: name the picture .png or .jpg, or give a folder")


def _list_videos(given: list[Path]) -> tuple[list[Path], int]:
    """All videos, and how many of the arguments are folders without any; these are reported."""
    videos: list[Path] = []
    failed = 0
    for path in given:
        try:
            videos += find_videos(path)
        except DataError as error:
            failed += 1
            complain(f"emim predict: {error}")
    return videos, failed


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


def show(predictions: Predictions) -> None:
    """Print one video's predictions for reading."""
    print(predictions, flush=True)


def _no_bar(done: int, total: int) -> None:
    del done, total
