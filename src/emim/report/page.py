"""Render a report as one HTML page, with the templates beside this file.

Jinja2 escapes every value, so that names of classes and files may hold anything.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from emim.errors import ConfigError
from emim.evaluation.testing import wilson_interval
from emim.report import formatting as words
from emim.report.charts import (
    HeatMap,
    Interval,
    Line,
    LineChart,
    WhiskerChart,
    heat_map,
    line_chart,
    mean_interval,
    whisker_chart,
)
from emim.report.measurement import Measurement
from emim.report.report import Report
from emim.report.tables import (
    changed_settings,
    class_rows,
    data_rows,
    diagnosis_rows,
    full_recipe,
    matrix_rows,
    most_confused,
    remarks_on_clips,
    swap_rows,
    timing_rows,
)
from emim.training.run_folder import History, RunRecord
from emim.utils import atomic_write

__all__ = ["render", "write_page"]

_MOST_IN_TABLE = 24
"""Maximum number of classes for a confusion matrix with figures; for more, a heat map is drawn."""
_MOST_OPEN = 30
"""Maximum number of rows of the class table that are shown unfolded."""
_MOST_PAIRS_BY_MATRIX, _MOST_PAIRS_BY_MAP, _MOST_SWAPS = 8, 20, 12


def render(report: Report) -> str:
    """Return the page as HTML that loads nothing else."""
    environment = Environment(
        loader=PackageLoader("emim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=words.percent, points=words.points, duration=words.duration, data_uri=_data_uri)
    environment.globals.update(count=words.count)
    style, script = (_source(environment, name) for name in ("style.css", "play.js"))
    run, measurement = report.run, report.measurement
    return environment.get_template("report.html").render(
        report=report,
        run=run,
        style=style,
        script=script,
        policy=_policy(script),
        status=_status(run),
        charts=_curves(run.history),
        not_finite=run.history.not_finite("train_loss_step"),
        validated=_validated(run),
        test=None if measurement is None else _test(run, measurement),
        diagnosis=None if measurement is None else _diagnosis(measurement),
        settings=() if run.config is None else changed_settings(run.config),
        recipe="" if run.config is None else full_recipe(run.config),
        data=data_rows(run, None if measurement is None else measurement.clips),
        timing=timing_rows(report),
    )


def _status(run: RunRecord) -> str:
    """Describe in a sentence how far the run got."""
    done, wanted = run.history.epochs_done, None if run.config is None else run.config.trainer.epochs
    of = "" if wanted is None else f" of {wanted}"
    if run.ending == "finished":
        seconds, epochs = run.summary.get("seconds"), run.summary.get("epochs")
        said = "Finished" if epochs is None else f"Finished after {words.count(int(epochs), 'epoch')}"
        return said if seconds is None else f"{said} and {words.duration(float(seconds))} of training"
    if run.ending == "diverged":
        last = run.divergences[-1]
        return f"Diverged: the loss was {last.get('loss')} at step {last.get('step')}, after {done}{of} epochs"
    return f"Not finished: {done}{of} epochs are done"


def _curves(history: History) -> tuple[LineChart, ...]:
    axis = history.axis
    found = (
        line_chart(
            "Loss",
            (
                Line("training, single steps", history.series("train_loss_step"), "faint"),
                Line("training, mean of the epoch", history.series("train_loss_epoch"), "first"),
                Line("validation", history.series("val_loss"), "second"),
            ),
            axis,
        ),
        line_chart("Validation top-1", (Line("validation", history.series("val_top1"), "second"),), axis, shares=True),
        line_chart("Learning rate", (Line("learning rate", history.series("lr"), "first"),), axis),
    )
    return tuple(chart for chart in found if chart is not None)


def _validated(run: RunRecord) -> tuple[float, str] | None:
    """Return the best logged validation accuracy and its epoch or step."""
    series = run.history.series("val_top1")
    if not series:
        return None
    at, best = max(series, key=lambda point: point[1])
    return best, f"{run.history.axis} {words.number(round(at))}"


def _test(run: RunRecord, measurement: Measurement) -> dict[str, Any]:
    """Return the values of the sections on the test."""
    test, classes = measurement.test, class_rows(measurement.test)
    tested = [at for at, row in enumerate(test.per_class) if row.clips]
    mean = mean_interval([test.confusion[at][at] for at in tested], [test.per_class[at].clips for at in tested])
    tiles: list[tuple[str, float, Interval, str]] = [
        ("Top-1", test.top1, test.top1_interval, "share of clips whose predicted class is correct"),
        ("Mean over classes", test.mean_class, mean, "top-1 accuracy, averaged over classes"),
    ]
    if len(classes) > 5:
        interval = wilson_interval(measurement.top5_hits, test.clips)
        tiles.insert(1, ("Top-5", test.top5, interval, "share of clips whose class is among the five best"))
    many = len(classes) > _MOST_IN_TABLE
    return {
        "result": test,
        "tiles": tiles,
        "classes": classes,
        "classes_open": len(classes) <= _MOST_OPEN,
        "matrix": None if many else matrix_rows(test),
        "map": _map(measurement) if many else None,
        "pairs": most_confused(test, _MOST_PAIRS_BY_MAP if many else _MOST_PAIRS_BY_MATRIX),
        "remarks": remarks_on_clips(run, measurement.clips),
    }


def _map(measurement: Measurement) -> HeatMap:
    test = measurement.test
    pairs = most_confused(test, 3)
    told = ", ".join(f"{pair.label} predicted as {pair.predicted} {words.count(pair.clips, 'time')}" for pair in pairs)
    return heat_map(
        test.confusion,
        f"Confusion of {len(test.per_class)} classes: {words.percent(test.top1)} of the clips lie on the diagonal. "
        f"Most confused: {told or 'none'}.",
    )


def _diagnosis(measurement: Measurement) -> dict[str, Any] | None:
    """Return the values of the section on motion."""
    found = measurement.diagnosis
    if found is None:
        return None
    rows = diagnosis_rows(found)
    chart: WhiskerChart = whisker_chart(
        "Accuracy by ablation with 95 % intervals",
        [(row.title, row.accuracy.value, row.accuracy.interval) for row in rows],
        found.chance,
        "chance",
    )
    return {
        "found": found,
        "rows": rows,
        "chart": chart,
        "swaps": swap_rows(found, _MOST_SWAPS),
        "more_swaps": max(0, len(found.swaps) - _MOST_SWAPS),
    }


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(script: str) -> str:
    """Return the content security policy: nothing from elsewhere, and only our own script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_page(report: Report, path: Path) -> int:
    """Write the page atomically.

    Returns:
        Its size in bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    # Names of files may hold bytes that are no text; the page shows a question mark for them.
    content = render(report).encode("utf-8", "replace")
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from error
    return len(content)
