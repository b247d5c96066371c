"""Rows of the tables of a report: classes, confusions, data, diagnosis, settings, timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from emim.data.folder import fingerprint
from emim.data.manifest import ClipList
from emim.datasets.prepare.output import left_out
from emim.evaluation.diagnosis import Diagnosis
from emim.evaluation.diagnosis.ablations import APPEARANCE_ZEROED, AS_IS, FROZEN, MOTION_ZEROED, REVERSED, SHUFFLED
from emim.evaluation.diagnosis.statistics import Estimate
from emim.evaluation.testing import TestResult, wilson_interval
from emim.report.charts import Interval
from emim.report.formatting import count, duration, number
from emim.report.report import Report
from emim.training.config import RunConfig
from emim.training.recipe import to_dict
from emim.training.run_folder import RunRecord

__all__ = [
    "Cell",
    "ClassRow",
    "Confused",
    "DataRow",
    "DiagnosisRow",
    "Rows",
    "Setting",
    "SwapRow",
    "changed_settings",
    "class_rows",
    "data_rows",
    "diagnosis_rows",
    "full_recipe",
    "matrix_rows",
    "most_confused",
    "remarks_on_clips",
    "swap_rows",
    "timing_rows",
]


@dataclass(frozen=True)
class ClassRow:
    """A class in the table.

    Attributes:
        name: name of the class.
        clips: number of tested clips.
        top1: share predicted correctly; None without clips.
        interval: its 95 % Wilson interval.
        confused_with: the class that its other clips were most often predicted as, and their number.
    """

    name: str
    clips: int
    top1: float | None
    interval: Interval | None
    confused_with: tuple[str, int] | None


def class_rows(result: TestResult) -> tuple[ClassRow, ...]:
    """Return the classes, those with the lowest accuracy first and those without clips last."""
    names = [row.name for row in result.per_class]
    rows = []
    for label, (row, counts) in enumerate(zip(result.per_class, result.confusion, strict=True)):
        others = [(count, -at) for at, count in enumerate(counts) if at != label and count]
        worst = max(others, default=None)
        rows.append(
            ClassRow(
                name=row.name,
                clips=row.clips,
                top1=row.top1,
                interval=wilson_interval(counts[label], row.clips) if row.clips else None,
                confused_with=None if worst is None else (names[-worst[1]], worst[0]),
            )
        )
    return tuple(sorted(rows, key=lambda row: 2.0 if row.top1 is None else row.top1))


@dataclass(frozen=True)
class Confused:
    """Clips of one class that were predicted as another.

    Attributes:
        label: their class.
        predicted: the predicted class.
        clips: number of clips.
        share: share of all tested clips of `label`.
    """

    label: str
    predicted: str
    clips: int
    share: float


def most_confused(result: TestResult, most: int) -> tuple[Confused, ...]:
    """Return the pairs with the most clips; ties are ordered by share."""
    names = [row.name for row in result.per_class]
    pairs = [
        Confused(names[label], names[predicted], count, count / sum(counts))
        for label, counts in enumerate(result.confusion)
        for predicted, count in enumerate(counts)
        if count and label != predicted
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.clips, -pair.share, pair.label, pair.predicted))[:most])


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: its count, its share of the row, and True on the diagonal."""

    count: int
    share: float
    correct: bool


def matrix_rows(result: TestResult) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """Return the confusion matrix by rows, each with its class."""
    return tuple(
        (
            row.name,
            tuple(Cell(count, count / max(1, sum(counts)), at == label) for at, count in enumerate(counts)),
        )
        for label, (row, counts) in enumerate(zip(result.per_class, result.confusion, strict=True))
    )


@dataclass(frozen=True)
class DataRow:
    """A list of clips.

    Attributes:
        part: training, validation or test.
        source: folder or manifest.
        note: how the list was made.
        clips: number of clips.
        spread: clips per class, in words.
        sha256: hash of names, classes and ranges of the clips, not of their contents.
    """

    part: str
    source: str
    note: str
    clips: int
    spread: str
    sha256: str


_PARTS = {"train": "training", "val": "validation"}


def data_rows(run: RunRecord, tested: ClipList | None) -> tuple[DataRow, ...]:
    """Return the lists of training, validation and test."""
    rows = [_row(_PARTS.get(part, part), found) for part, found in run.data.items() if isinstance(found, Mapping)]
    if tested is not None:
        rows.append(_row("test", {"source": str(tested.source), "note": tested.note, **fingerprint(tested)}))
    return tuple(rows)


def remarks_on_clips(run: RunRecord, tested: ClipList) -> tuple[str, ...]:
    """Return sentences on what makes a test look better than it is, or leaves clips out."""
    lacking = left_out(tested.source)
    if lacking is None:
        return _overestimates(run, tested)
    return (
        *_overestimates(run, tested),
        f"emim prepare left out {lacking.clips} of {lacking.listed} clips that the data set lists, and they are in no "
        f"figure; {lacking.report} names them.",
    )


def _overestimates(run: RunRecord, tested: ClipList) -> tuple[str, ...]:
    digest = fingerprint(tested)["sha256"]
    recorded = {part: found.get("sha256") for part, found in run.data.items() if isinstance(found, Mapping)}
    if digest == recorded.get("train"):
        return ("These are the clips that the network was trained on: they say nothing about new clips.",)
    if digest == recorded.get("val") and run.config is not None and run.config.trainer.keep == "best":
        return (
            "The weights were chosen by their accuracy on these clips (trainer.keep=best), so the figures are "
            "somewhat too high. Give other clips with --data for an unbiased figure.",
        )
    return ()


def _row(part: str, found: Mapping[str, Any]) -> DataRow:
    counts = list(dict(found.get("counts", {})).values())
    return DataRow(
        part=part,
        source=str(found.get("source", "")),
        note=str(found.get("note", "")),
        clips=int(found.get("num_clips", 0)),
        spread=_spread(counts),
        sha256=str(found.get("sha256", "")),
    )


def _spread(counts: list[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    each = f"{low} each" if low == high else f"{low} to {high} each"
    return f"{count(len(counts), 'class', 'classes')}, {each}"


_DESCRIPTIONS = {
    AS_IS: ("as they are", "nothing is changed"),
    FROZEN: ("frozen", "the middle frame, repeated"),
    SHUFFLED: ("shuffled", "the same frames in random order"),
    REVERSED: ("reversed", "played backwards"),
    MOTION_ZEROED: ("motion zeroed", "EMIM without its motion features"),
    APPEARANCE_ZEROED: ("appearance zeroed", "EMIM without its appearance path"),
}


@dataclass(frozen=True)
class DiagnosisRow:
    """An ablation, what it does, and the measured accuracy."""

    title: str
    what: str
    accuracy: Estimate
    difference: Estimate | None


@dataclass(frozen=True)
class SwapRow:
    """Two classes that swap in reverse: of the clips of each, the share predicted as the other, and their number."""

    first: str
    second: str
    first_share: float
    first_clips: int
    second_share: float
    second_clips: int


def diagnosis_rows(diagnosis: Diagnosis) -> tuple[DiagnosisRow, ...]:
    """Return the rows in the order of the ablations."""
    return tuple(
        DiagnosisRow(*_DESCRIPTIONS.get(condition.name, (condition.name, "")), condition.accuracy, condition.difference)
        for condition in diagnosis.ablations
    )


def swap_rows(diagnosis: Diagnosis, most: int) -> tuple[SwapRow, ...]:
    """Return the clearest swaps first."""
    names = diagnosis.classes
    return tuple(
        SwapRow(
            names[swap.classes[0]],
            names[swap.classes[1]],
            swap.shares[0],
            swap.clips[0],
            swap.shares[1],
            swap.clips[1],
        )
        for swap in diagnosis.swaps[:most]
    )


@dataclass(frozen=True)
class Setting:
    """A key with its value and default, as YAML."""

    key: str
    value: str
    default: str


def changed_settings(config: RunConfig) -> tuple[Setting, ...]:
    """Return the keys whose value differs from the default, in the order of the configuration."""
    values, defaults = (dict(_flat(to_dict(each))) for each in (config, RunConfig()))
    return tuple(
        Setting(key, _text(value), _text(defaults.get(key)))
        for key, value in values.items()
        if value != defaults.get(key)
    )


def full_recipe(config: RunConfig) -> str:
    """Return the configuration as a recipe."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted keys, as in overrides. A mapping that is a value (`augment.flip_map`) stays one."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and not key.endswith("_map"):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def _text(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


Rows = tuple[tuple[str, str], ...]


def timing_rows(report: Report) -> dict[str, Rows]:
    """Return names and values, grouped by subject."""
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
