"""The page of a report: what its sections show, drawn by the templates beside this file.

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
    matrix_rows,
    most_confused,
    remarks_on_clips,
    swap_rows,
    timing_rows,
    whole,
)
from emim.training.run_folder import History, RunRecord
from emim.utils import atomic_write

_MOST_IN_TABLE = 24
"""Classes of a confusion matrix with figures in it; of more, a map is drawn."""
_MOST_OPEN = 30
"""Rows of the table of classes that are open."""
_MOST_PAIRS_BY_MATRIX, _MOST_PAIRS_BY_MAP, _MOST_SWAPS = 8, 20, 12


def render(report: Report) -> str:
    """The page as HTML, without anything that lies elsewhere."""
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
        recipe="" if run.config is None else whole(run.config),
        data=data_rows(run, None if measurement is None else measurement.clips),
        timing=timing_rows(report),
    )


def _status(run: RunRecord) -> str:
    """How far the run got, in a sentence."""
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
    """The best logged validation, and when it was."""
    series = run.history.series("val_top1")
    if not series:
        return None
    at, best = max(series, key=lambda point: point[1])
    return best, f"{run.history.axis} {words.number(round(at))}"


def _test(run: RunRecord, measurement: Measurement) -> dict[str, Any]:
    """What the sections on the test show."""
    test, classes = measurement.test, class_rows(measurement.test)
    tested = [at for at, row in enumerate(test.per_class) if row.clips]
    mean = mean_interval([test.confusion[at][at] for at in tested], [test.per_class[at].clips for at in tested])
    tiles: list[tuple[str, float, Interval, str]] = [
        ("Top-1", test.top1, test.top1_interval, "the best class is right"),
        ("Mean over classes", test.mean_class, mean, "top-1, every class counting the same"),
    ]
    if len(classes) > 5:
        interval = wilson_interval(measurement.top5_hits, test.clips)
        tiles.insert(1, ("Top-5", test.top5, interval, "the right class is among the best five"))
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
    told = ", ".join(f"{pair.label} named {pair.named} {words.count(pair.clips, 'time')}" for pair in pairs)
    return heat_map(
        test.confusion,
        f"Confusion of {len(test.per_class)} classes: {words.percent(test.top1)} of the clips lie on the diagonal. "
        f"Most confused: {told or 'none'}.",
    )


def _diagnosis(measurement: Measurement) -> dict[str, Any] | None:
    """What the section on motion shows."""
    found = measurement.diagnosis
    if found is None:
        return None
    rows = diagnosis_rows(found)
    chart: WhiskerChart = whisker_chart(
        "Accuracy by condition with 95 % intervals",
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
    """What the browser may load: nothing from elsewhere, and no script but ours."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_page(report: Report, path: Path) -> int:
    """Write the page; it appears whole or not at all.

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
