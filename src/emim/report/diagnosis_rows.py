"""The diagnosis as rows for reading."""

from __future__ import annotations

from dataclasses import dataclass

from emim.evaluation.diagnosis import Diagnosis
from emim.evaluation.diagnosis.bootstrap import Estimate
from emim.evaluation.diagnosis.conditions import (
    APPEARANCE_ZEROED,
    AS_IS,
    FROZEN,
    MOTION_ZEROED,
    REVERSED,
    SHUFFLED,
)

_TOLD = {
    AS_IS: ("as they are", "nothing is changed"),
    FROZEN: ("frozen", "the middle frame, repeated"),
    SHUFFLED: ("shuffled", "the same frames in random order"),
    REVERSED: ("reversed", "played backwards"),
    MOTION_ZEROED: ("motion zeroed", "EMIM without its motion features"),
    APPEARANCE_ZEROED: ("appearance zeroed", "EMIM without its appearance path"),
}


@dataclass(frozen=True)
class DiagnosisRow:
    """A condition, what it does, and what was measured in it."""

    title: str
    what: str
    accuracy: Estimate
    difference: Estimate | None


@dataclass(frozen=True)
class SwapRow:
    """Two classes that change places in reverse: of the clips of either, the share named the other, and how many."""

    first: str
    second: str
    first_share: float
    first_clips: int
    second_share: float
    second_clips: int


def diagnosis_rows(diagnosis: Diagnosis) -> tuple[DiagnosisRow, ...]:
    """In the order of the conditions."""
    return tuple(
        DiagnosisRow(*_TOLD.get(condition.name, (condition.name, "")), condition.accuracy, condition.difference)
        for condition in diagnosis.conditions
    )


def swap_rows(diagnosis: Diagnosis, most: int) -> tuple[SwapRow, ...]:
    """The clearest first."""
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
