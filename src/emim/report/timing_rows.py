"""What was done in what time, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emim.report.report import Report
from emim.report.words import count, duration, number

Rows = tuple[tuple[str, str], ...]


def timing_rows(report: Report) -> dict[str, Rows]:
    """Names and values, by what they are about."""
    trained_on, here = _machine(report.run.machine), _machine(report.machine.to_dict())
    groups = {"Training": _training(report)}
    if report.measurement is not None:
        clips, seconds = report.measurement.test.clips, report.measurement.seconds
        what = "time, with the diagnosis" if report.measurement.diagnosis is not None else "time"
        groups["Test"] = (
            (what, f"{count(clips, 'clip')} in {duration(seconds)}"),
            ("device", report.measurement.device),
            ("precision", report.measurement.test.precision),
        )
    if trained_on == here:
        groups["Trained and reported on"] = here
    else:
        groups |= {"Trained on": trained_on, "Reported on": here}
    return {name: rows for name, rows in groups.items() if rows}


def _training(report: Report) -> Rows:
    summary, history = report.run.summary, report.run.history
    rows: list[tuple[str, str]] = []
    seconds, steps = summary.get("seconds"), summary.get("steps") or history.steps_done
    epochs = summary.get("epochs", history.epochs_done)
    if seconds is not None:
        rows.append(("time", duration(float(seconds))))
        if epochs:
            rows.append(("time per epoch", duration(float(seconds) / int(epochs))))
    if steps:
        rows += [("epochs", number(epochs)), ("steps", number(steps))]
    names = {"global_batch": "clips per step", "lr": "peak learning rate", "precision": "precision"}
    rows += [(name, f"{summary[key]}") for key, name in names.items() if key in summary]
    if "processes" in summary:
        rows.append(("processes", f"{summary['processes']}"))
    return tuple(rows)


def _machine(machine: Mapping[str, Any]) -> Rows:
    rows = [
        (name, str(machine[key]))
        for key, name in (("gpu", "GPU"), ("processor", "processor"), ("cores", "cores"), ("system", "system"))
        if machine.get(key) is not None
    ]
    versions = machine.get("versions")
    if machine.get("python"):
        rows.append(("Python", str(machine["python"])))
    if isinstance(versions, Mapping):
        rows += [(str(name), str(version)) for name, version in versions.items()]
    return tuple(rows)
