"""What a diagnosis found, and its form as JSON (docs/diagnose.md describes it)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emim.data.manifest import ClipEntry, format_moment
from emim.data.preprocessing import Preprocessing
from emim.evaluation.diagnosis.bootstrap import Estimate
from emim.evaluation.diagnosis.swaps import LEAST_CLIPS, LEAST_SHARE, Swap
from emim.evaluation.outputs import Precision
from emim.evaluation.testing import describe_views

FORMAT: Final = 1
"""Version of the JSON: a key changes its meaning, or goes, only with a new one."""


@dataclass(frozen=True)
class ConditionResult:
    """What was measured in one condition.

    Attributes:
        name: see `emim.evaluation.diagnosis.conditions`.
        accuracy: share of the clips whose best class is right, with its 95 % bootstrap interval.
        difference: to the accuracy as they are, paired; None as they are.
        predicted: index of the best class of each clip.
    """

    name: str
    accuracy: Estimate
    difference: Estimate | None
    predicted: tuple[int, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The same clips tested in several conditions. Shares are in [0, 1] of the clips that could be read.

    Attributes:
        classes: class names by index.
        clips: the clips that could be read; `entry.label` is the class index.
        missing: clips that could not be read, with the reason. They are in no figure.
        conditions: as they are comes first.
        chance: accuracy of naming every clip the most frequent class of these clips.
        swaps: pairs of classes that change places under reversal, the clearest first.
        conclusion: what follows, in plain sentences.
        notes: what to know of the conditions, in plain sentences.
        emim_modules: names of the network's EMIM modules, which alone are changed where something is zeroed.
        seed: of the shuffles and the bootstrap.
        resamples: of the bootstrap.
        preprocessing: the views of each video.
        precision: what the network computed in.
    """

    classes: tuple[str, ...]
    clips: tuple[ClipEntry, ...]
    missing: tuple[tuple[Path, str], ...]
    conditions: tuple[ConditionResult, ...]
    chance: float
    swaps: tuple[Swap, ...]
    conclusion: tuple[str, ...]
    notes: tuple[str, ...]
    emim_modules: tuple[str, ...]
    seed: int
    resamples: int
    preprocessing: Preprocessing
    precision: Precision

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": FORMAT,
            "clips": len(self.clips),
            "missing": [{"path": str(path), "reason": reason} for path, reason in self.missing],
            "classes": list(self.classes),
            "views": describe_views(self.preprocessing),
            "precision": self.precision,
            "seed": self.seed,
            "resamples": self.resamples,
            "chance": self.chance,
            "one_of_classes": 1 / len(self.classes),
            "conditions": [_condition_dict(condition) for condition in self.conditions],
            "conclusion": list(self.conclusion),
            "notes": list(self.notes),
            "emim_modules": list(self.emim_modules),
            "swaps_under_reversal": {
                "least_share": LEAST_SHARE,
                "least_clips": LEAST_CLIPS,
                "pairs": [self._swap_dict(swap) for swap in self.swaps],
            },
            "per_clip": [self._clip_dict(number, entry) for number, entry in enumerate(self.clips)],
        }

    def _swap_dict(self, swap: Swap) -> dict[str, Any]:
        return {
            "classes": [self.classes[index] for index in swap.classes],
            "shares": list(swap.shares),
            "clips": list(swap.clips),
        }

    def _clip_dict(self, number: int, entry: ClipEntry) -> dict[str, Any]:
        return {
            "path": str(entry.path),
            "start": format_moment(entry.start, entry.unit),
            "end": format_moment(entry.end, entry.unit),
            "class": self.classes[entry.label],
            "predicted": {condition.name: self.classes[condition.predicted[number]] for condition in self.conditions},
        }


def _condition_dict(condition: ConditionResult) -> dict[str, Any]:
    difference = condition.difference
    return {
        "name": condition.name,
        "accuracy": condition.accuracy.value,
        "accuracy_95_bootstrap": list(condition.accuracy.interval),
        "difference": None if difference is None else difference.value,
        "difference_95_bootstrap": None if difference is None else list(difference.interval),
    }
