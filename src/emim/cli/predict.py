"""`emim predict`: name the action in videos."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, natural, positive, progress_bar, say
from emim.environment import let_waiting_threads_sleep
from emim.errors import ConfigError, DataError, VideoError

if TYPE_CHECKING:
    import torch

    from emim.inference.recogniser import Predictions, Recogniser
    from emim.precision import Precision


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
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="PICTURE",
        help="write a picture of the frames and places that the prediction rests on, next to the motion: .png or .jpg "
        "for one video, a folder for several",
    )
    add_running_options(parser)
    parser.set_defaults(run=run)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """How a prediction runs; `load_recogniser` takes them."""
    running = parser.add_argument_group("running")
    running.add_argument(
        "--workers", type=natural, help="processes that read videos, 0: none (default: by cores; none for few videos)"
    )
    running.add_argument(
        "--batch-size", type=positive, help="views in one pass of the network (default: 8 on the CPU, 32 on a GPU)"
    )
    add_device_options(running)


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Where the network runs, and in what; `load_recogniser` takes them."""
    parser.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed"),
        default="auto",
        help="default: bf16-mixed on GPUs that compute in it and CPUs with AMX, else 32-true",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a GPU if there is one)")


def load_recogniser(args: argparse.Namespace) -> Recogniser:
    """The network of --checkpoint with --device and --precision.

    Raises:
        ConfigError: there is no such device.
        CheckpointError: the file is not a trained model.
    """
    from emim.inference.recogniser import Recogniser

    device = find_device(args.device)
    return Recogniser.load(args.checkpoint, device=device, precision=find_precision(args.precision, device.type))


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        ConfigError: there is none.
    """
    import torch

    from emim.inference.recogniser import default_device

    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"--device {name}: PyTorch finds {gpus or 'no'} GPU{'s' * (gpus != 1)}; take cpu, or auto")
    return device


def find_precision(wanted: str, device_type: str) -> Precision:
    """What the network computes in; "auto" is bfloat16 where the device does so natively."""
    from emim.precision import resolve_precision

    if wanted == "auto":
        wanted = resolve_precision("auto", device_type)
    return "bf16-mixed" if wanted == "bf16-mixed" else "32-true"


def run(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()
    from emim.data.prefetch import lost_workers_named

    recogniser = load_recogniser(args)
    videos, failed = _list_videos(args.videos)
    many = len(videos) > 1
    pictures = _name_pictures(args.explain, videos)
    started = time.monotonic()
    with lost_workers_named(), progress_bar("predicting", len(videos)) if many else nullcontext(_no_bar) as progress:
        outcomes = recogniser.predict_many(videos, args.topk, workers=args.workers, batch_size=args.batch_size)
        for done, (path, outcome) in enumerate(outcomes, start=1):
            if isinstance(outcome, VideoError):
                failed += 1
                say(f"emim predict: {outcome}")
            else:
                show(outcome, as_json=args.json)
                if pictures:
                    explain(recogniser, path, pictures[done - 1])
            progress(done, len(videos))
    if many:
        seconds = time.monotonic() - started
        say(f"{len(videos)} videos in {seconds:.1f} s ({len(videos) / seconds:.1f} videos/s), {failed} failed")
    return 1 if failed else 0


def explain(recogniser: Recogniser, video: Path, picture: Path) -> None:
    """Write the explanation of a video's prediction, and say so."""
    from emim.motion.explanation import explain

    explanation = explain(recogniser, video)
    explanation.save(picture)
    say(f"{picture}: {explanation.describe()}")


def _name_pictures(given: Path | None, videos: list[Path]) -> list[Path]:
    """A picture for each video, or none; several go into a folder, named after the videos.

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
    """All videos, and how many of the arguments are folders without any, which is said."""
    videos: list[Path] = []
    failed = 0
    for path in given:
        try:
            videos += find_videos(path)
        except DataError as error:
            failed += 1
            say(f"emim predict: {error}")
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


def show(predictions: Predictions, *, as_json: bool) -> None:
    """Print one video's predictions, as a line of JSON or for reading."""
    print(json.dumps(predictions.to_dict()) if as_json else predictions, flush=True)


def _no_bar(done: int, total: int) -> None:
    del done, total
