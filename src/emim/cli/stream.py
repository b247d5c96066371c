"""`emim stream`: recognise actions live; one changing line on a terminal, plain lines elsewhere, or lines of JSON."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from emim.cli.console import JsonLines, SubParsers, say
from emim.cli.options import (
    NATURAL,
    PRECISION_FOR_SPEED,
    SECONDS,
    SHARE,
    add_checkpoint,
    add_device_options,
    add_option,
    add_result_options,
    complete,
    examples,
    file_path,
    json_with_file,
)
from emim.cli.predict import load_recogniser
from emim.environment import let_waiting_threads_sleep, usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emim.inference.live.predictor import LivePrediction, LivePredictor, Summary
    from emim.inference.recogniser import Prediction

__all__ = ["add_parser", "run"]


_BAR_WIDTH = 12
_ERASE_LINE = "\r\x1b[2K"
_UNSURE = "-"
_NUMBERS = (
    ("stride", SECONDS, 0.25, "S", "seconds between predictions"),
    ("smoothing", SHARE, 0.6, "W", "weight of the past in the moving average of scores, 0 (none) to below 1"),
    ("threshold", SHARE, 0.0, "P", "name no class below this smoothed score"),
)


class Display:
    """Shows predictions on standard output, for reading.

    Args:
        topk: classes to show.
        threshold: smoothed score below which no class is named.
        silent: show nothing, because standard output is for JSON.
    """

    def __init__(self, topk: int, threshold: float, *, silent: bool) -> None:
        self._topk = topk
        self._threshold = threshold
        self._silent = silent
        # The one changing line needs a terminal that can erase; it has no colours, so NO_COLOR does not matter to it.
        self._changing = not silent and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._label_width = 0
        self._unfinished = False

    def show(self, prediction: LivePrediction) -> None:
        """Show a prediction, in place of the last one on a terminal."""
        if self._silent:
            return
        # A full line would wrap and stay.
        line = self._line(prediction, shutil.get_terminal_size().columns - 1 if self._changing else None)
        if self._changing:
            sys.stdout.write(_ERASE_LINE + line)
            sys.stdout.flush()
            self._unfinished = True
        else:
            print(line, flush=True)

    def note(self, text: str) -> None:
        """A line on standard error, that stays."""
        self.finish()
        say(text)

    def finish(self) -> None:
        """Leave the last prediction on a line of its own."""
        if self._unfinished:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._unfinished = False

    def _line(self, prediction: LivePrediction, width: int | None) -> str:
        best, *others = prediction.smoothed[: self._topk]
        self._label_width = max(self._label_width, *(len(item.label) for item in prediction.smoothed))
        label = named(prediction, self._threshold) or _UNSURE
        bar = "█" * round(best.score * _BAR_WIDTH)
        milliseconds = 1e3 * (time.monotonic() - prediction.captured)
        line = f"{prediction.time:8.2f} s  {label:<{self._label_width}}  {best.score:6.1%}  {bar:<{_BAR_WIDTH}}"
        line += f"  {milliseconds:4.0f} ms"
        for item in others:
            longer = f"{line}  {item.label} {item.score:.0%}"
            if width is not None and len(longer) > width:
                break
            line = longer
        return line[:width]


def record_of(prediction: LivePrediction, topk: int, threshold: float) -> dict[str, Any]:
    """A prediction as plain values for JSON.

    Args:
        prediction: from the stream.
        topk: number of best classes.
        threshold: smoothed score below which no class is named.
    """
    latency = time.monotonic() - prediction.captured
    captured = datetime.now(timezone.utc) - timedelta(seconds=latency)
    return {
        "time": round(prediction.time, 3),
        "captured": captured.isoformat(timespec="milliseconds"),
        "label": named(prediction, threshold),
        "score": round(prediction.smoothed[0].score, 6),
        "smoothed": _listed(prediction.smoothed[:topk]),
        "raw": _listed(prediction.raw[:topk]),
        "latency": round(latency, 4),
    }


def _listed(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [{"label": item.label, "score": round(item.score, 6)} for item in predictions]


def named(prediction: LivePrediction, threshold: float) -> str | None:
    """The best class by smoothed score; None where that is below the threshold."""
    best = prediction.smoothed[0]
    return best.label if best.score >= threshold else None


def summary_lines(summary: Summary) -> list[str]:
    """The end of a stream in words."""
    lines = [
        f"{_count(summary.predictions, 'prediction')} in {summary.seconds:.1f} s of {_count(summary.frames, 'frame')}"
    ]
    if summary.latency_p50 is not None and summary.latency_p95 is not None:
        lines.append(
            f"latency from the newest frame's arrival to its prediction: median {1e3 * summary.latency_p50:.0f} ms, "
            f"p95 {1e3 * summary.latency_p95:.0f} ms"
        )
    lines.append(
        f"dropped: {summary.dropped} of {_count(summary.due, 'due prediction')} "
        f"({_share(summary.dropped, summary.due)}); {_count(summary.late, 'frame')} left out as too late "
        f"({_share(summary.late, summary.frames + summary.late)})"
    )
    if summary.broken:
        lines.append(f"damaged: {_count(summary.broken, 'packet')} could not be decoded")
    if summary.reconnects:
        lines.append(f"reconnected: {_count(summary.reconnects, 'time')}")
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0.0%"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "stream",
        parents=[common],
        help="recognise actions live from a camera or stream",
        description=(
            "Recognise actions live from a camera, a network stream, or a file played in real time, until it ends or "
            "Ctrl-C is pressed. Each prediction uses the newest frames; predictions that the network is too slow for "
            "are dropped and counted. A camera or stream that is lost is opened again."
        ),
        epilog=examples(
            "emim stream 0",
            "emim stream rtsp://camera.local/live --checkpoint runs/mine/model.safetensors --threshold 0.6",
            "emim stream clip.mp4 --json > predictions.jsonl",
        ),
    )
    source = parser.add_argument(
        "source", type=_source, help="number of a camera, video file, or address (rtsp://, http://, tcp:// ...)"
    )
    complete(source, "file")
    add_checkpoint(parser)
    for name, limits, default, metavar, meaning in _NUMBERS:
        parser.add_argument(
            f"--{name}", type=limits, default=default, metavar=metavar, help=f"{meaning} (default: {default:g})"
        )
    parser.add_argument(
        "--span",
        type=SECONDS,
        metavar="S",
        help=(
            "seconds from the first to the last frame of a clip; about as long as the action takes (default: as in "
            "training for dense sampling, 2 for segment sampling)"
        ),
    )
    add_option(parser, "--topk", "default: 3", default=3)
    add_result_options(parser, "the predictions as JSON, one per line", json="one prediction per line")
    json_with_file(parser)
    parser.add_argument("--duration", type=SECONDS, metavar="S", help="end after this many seconds of the source")
    lost = parser.add_argument_group("lost sources")
    lost.add_argument(
        "--timeout", type=SECONDS, default=10.0, metavar="S", help="seconds without data after which a source is lost "
        "(default: 10)"
    )  # fmt: skip
    lost.add_argument(
        "--retries", type=NATURAL, default=10, metavar="N", help="attempts in a row to open a lost source again "
        "(default: 10)"
    )  # fmt: skip
    running = parser.add_argument_group("running")
    add_device_options(running, PRECISION_FOR_SPEED)
    add_option(running, "--threads", "default: one fewer than there are cores")
    parser.set_defaults(run=run)


def _source(text: str) -> str:
    """Argument type: a file is checked for a possible name, an address may be of any length."""
    return text if "://" in text else str(file_path(text))


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    let_waiting_threads_sleep()
    from emim.inference.live.connection import parse_source
    from emim.inference.live.predictor import LiveOptions, LivePredictor

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
    display = Display(args.topk, args.threshold, silent=args.json)
    with JsonLines(args) as lines:
        try:
            _watch(args, predictor, display, lines)
        except KeyboardInterrupt:  # the ordinary way to end a camera
            pass
        finally:
            display.finish()
            summary = predictor.summary()
            for line in summary_lines(summary) if summary.frames else ():
                say(line)
    return 0


def _watch(args: argparse.Namespace, predictor: LivePredictor, display: Display, lines: JsonLines) -> None:
    with closing(predictor.items()) as items:
        for item in items:
            if isinstance(item, str):
                display.note(item)
                continue
            if lines:
                lines.write(record_of(item, args.topk, args.threshold))
            display.show(item)


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, usable_cores() - 1)  # decoding has the other one
    if threads is not None:
        torch.set_num_threads(threads)
