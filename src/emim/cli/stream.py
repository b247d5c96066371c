"""How `emim stream` shows predictions: a line that changes on a terminal, else plain lines; and lines of JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from emim.cli.console import SubParsers, natural, positive, say
from emim.cli.predict import add_device_options, load_recogniser
from emim.environment import let_waiting_threads_sleep, usable_cores
from emim.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emim.inference.live.predictor import LivePrediction, LivePredictor, Summary
    from emim.inference.recogniser import Prediction


_BAR_WIDTH = 12
_ERASE_LINE = "\r\x1b[2K"
_UNSURE = "-"


class Display:
    """Shows predictions on standard output.

    Args:
        topk: classes to show.
        threshold: smoothed score below which no class is named.
        quiet: show nothing, because standard output is for JSON.
    """

    def __init__(self, topk: int, threshold: float, *, quiet: bool) -> None:
        self._topk = topk
        self._threshold = threshold
        self._quiet = quiet
        self._changing = not quiet and sys.stdout.isatty()
        self._label_width = 0
        self._unfinished = False

    def show(self, prediction: LivePrediction) -> None:
        """Show a prediction, in place of the last one on a terminal."""
        if self._quiet:
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


class JsonLines:
    """Writes a line of JSON for each prediction.

    Args:
        file: where to.
        name: of the file, for an error; None where whoever reads the lines may go away.
        topk: classes of each prediction.
        threshold: smoothed score below which no class is named.
    """

    def __init__(self, file: TextIO, name: str | None, topk: int, threshold: float) -> None:
        self._file = file
        self._name = name
        self._topk = topk
        self._threshold = threshold

    def write(self, prediction: LivePrediction) -> None:
        """Write one prediction; the line is out when this returns.

        Raises:
            ConfigError: the file cannot be written.
        """
        latency = time.monotonic() - prediction.captured
        captured = datetime.now(timezone.utc) - timedelta(seconds=latency)
        line = {
            "time": round(prediction.time, 3),
            "captured": captured.isoformat(timespec="milliseconds"),
            "label": named(prediction, self._threshold),
            "score": round(prediction.smoothed[0].score, 6),
            "smoothed": self._listed(prediction.smoothed),
            "raw": self._listed(prediction.raw),
            "latency": round(latency, 4),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            if self._name is None:
                raise
            raise ConfigError(f"{self._name}: cannot be written ({error.strerror})") from error

    def _listed(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        return [{"label": item.label, "score": round(item.score, 6)} for item in predictions[: self._topk]]


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
