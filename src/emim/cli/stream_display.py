"""How `emim stream` shows predictions: a line that changes on a terminal, else plain lines; and lines of JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TextIO

from emim.cli.console import say
from emim.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emim.evaluation.recogniser import Prediction
    from emim.live.results import LivePrediction, Summary

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
