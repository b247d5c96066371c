"""The lists of clips that a run and its test used, and what to know of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emim.data.folder import fingerprint
from emim.data.manifest import ClipList
from emim.data.prepare.output import left_out
from emim.report.run_folder import RunRecord
from emim.report.words import count


@dataclass(frozen=True)
class DataRow:
    """A list of clips.

    Attributes:
        part: what it was used for.
        source: where it came from.
        note: how it came about.
        clips: how many.
        spread: how they are spread over the classes, in words.
        sha256: of names, classes and ranges of the clips, not of their contents.
    """

    part: str
    source: str
    note: str
    clips: int
    spread: str
    sha256: str


_PARTS = {"train": "training", "val": "validation"}


def data_rows(run: RunRecord, tested: ClipList | None) -> tuple[DataRow, ...]:
    """Training, validation, and the clips of the test."""
    rows = [_row(_PARTS.get(part, part), found) for part, found in run.data.items() if isinstance(found, Mapping)]
    if tested is not None:
        rows.append(_row("test", {"source": str(tested.source), "note": tested.note, **fingerprint(tested)}))
    return tuple(rows)


def remarks_on_clips(run: RunRecord, tested: ClipList) -> tuple[str, ...]:
    """What makes the figures of a test look better than they are, or leaves something out, in sentences."""
    lacking = left_out(tested.source)
    if lacking is None:
        return _flattery(run, tested)
    return (
        *_flattery(run, tested),
        f"emim prepare left out {lacking.clips} of {lacking.listed} clips that the data set lists, and they are in no "
        f"figure; {lacking.report} names them.",
    )


def _flattery(run: RunRecord, tested: ClipList) -> tuple[str, ...]:
    digest = fingerprint(tested)["sha256"]
    recorded = {part: found.get("sha256") for part, found in run.data.items() if isinstance(found, Mapping)}
    if digest == recorded.get("train"):
        return ("These are the clips that the network was trained on: the figures say nothing about new clips.",)
    if digest == recorded.get("val") and run.config is not None and run.config.trainer.keep == "best":
        return (
            "The weights were chosen by their accuracy on these clips (trainer.keep=best), so the figures are somewhat "
            "too good. A list of other clips, given with --data, would tell more.",
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
