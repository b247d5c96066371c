"""`emim stream`: name the action in a camera, a network stream, or a file played in real time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from emim.cli.console import SubParsers, natural, positive, say
from emim.cli.predict import add_device_options, load_recogniser
from emim.cli.stream_display import Display, JsonLines, summary_lines
from emim.errors import ConfigError
from emim.machine import let_waiting_threads_sleep, usable_cores

if TYPE_CHECKING:
    from emim.live.predictor import LivePredictor


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "stream",
        parents=[common],
        help="name the action in a camera or stream, as it happens",
        description=(
            "Name the action in a camera, a network stream, or a file played in real time, until it ends or Ctrl-C is "
            "pressed. Each prediction is made from the newest frames; those that the network has no time for are "
            "dropped and counted. A camera or stream that is lost is opened again."
        ),
    )
    parser.add_argument("source", help="number of a camera, video file, or address (rtsp://, http://, tcp:// ...)")
    parser.add_argument("--checkpoint", help="model.safetensors of a run (default: the bundled model)")
    parser.add_argument(
        "--stride", type=float, default=0.25, metavar="S", help="seconds between predictions (default 0.25)"
    )
    parser.add_argument(
        "--span",
        type=float,
        metavar="S",
        help=(
            "seconds that a clip goes back; about as long as the action takes (default: the training clips' span for "
            "dense sampling, 2 for segment sampling)"
        ),
    )
    parser.add_argument(
        "--smoothing",
        type=float,
        default=0.6,
        metavar="W",
        help="weight of the past in the moving average of scores, 0 (none) to below 1 (default 0.6)",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="name no class below this smoothed score (default 0)"
    )
    parser.add_argument("--topk", type=positive, default=3, help="classes to show (default 3)")
    parser.add_argument("--json", metavar="PATH", help="write a line of JSON for each prediction; - is standard output")
    parser.add_argument("--duration", type=float, metavar="S", help="end after so many seconds of the source")
    lost = parser.add_argument_group("lost sources")
    lost.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds without data that mean lost (default 10)"
    )
    lost.add_argument(
        "--retries", type=natural, default=10, help="attempts in a row to open a lost source again (default 10)"
    )
    running = parser.add_argument_group("running")
    running.add_argument(
        "--threads", type=positive, help="of the network on the CPU (default: one fewer than there are cores)"
    )
    add_device_options(running)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()
    if not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold must lie in 0 to 1, got {args.threshold:g}")
    from emim.live.options import LiveOptions
    from emim.live.predictor import LivePredictor
    from emim.live.source import parse_source

    options = LiveOptions(
        stride=args.stride,
        span=args.span,
        smoothing=args.smoothing,
        duration=args.duration,
        timeout=args.timeout,
        retries=args.retries,
    )
    source = parse_source(args.source)
    _set_threads(args.threads)
    predictor = LivePredictor(source, load_recogniser(args), options)
    display = Display(args.topk, args.threshold, quiet=args.json == "-")
    with _json_lines(args) as json_lines:
        try:
            _watch(predictor, display, json_lines)
        except KeyboardInterrupt:  # the ordinary way to end a camera
            pass
        finally:
            display.finish()
            summary = predictor.summary()
            for line in summary_lines(summary) if summary.frames else ():
                say(line)
    return 0


def _watch(predictor: LivePredictor, display: Display, json_lines: JsonLines | None) -> None:
    with closing(predictor.items()) as items:
        for item in items:
            if isinstance(item, str):
                display.note(item)
                continue
            if json_lines is not None:
                json_lines.write(item)
            display.show(item)


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, usable_cores() - 1)  # decoding has the other one
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def _json_lines(args: argparse.Namespace) -> Iterator[JsonLines | None]:
    """Where --json writes."""
    if args.json is None:
        yield None
    elif args.json == "-":
        yield JsonLines(sys.stdout, None, args.topk, args.threshold)
    else:
        file = _open_for_writing(args.json)
        try:
            yield JsonLines(file, args.json, args.topk, args.threshold)
        finally:
            with suppress(OSError):  # every line was flushed; where that failed, it has been said
                file.close()


def _open_for_writing(path: str) -> TextIO:
    try:
        return Path(path).open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
