"""What a diagnosis found, and its form as JSON (docs/diagnose.md describes it)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from emim.data.manifest import ClipEntry, ClipList, format_moment
from emim.data.preprocessing import Preprocessing
from emim.distributed import SINGLE_PROCESS, ProcessGroup
from emim.evaluation.diagnosis.ablations import (
    APPEARANCE_ZEROED,
    AS_IS,
    FROZEN,
    MOTION_ZEROED,
    REVERSED,
    SHUFFLED,
    conditions_for,
    emim_modules,
)
from emim.evaluation.diagnosis.statistics import (
    LEAST_CLIPS,
    LEAST_SHARE,
    RESAMPLES,
    Estimate,
    Swap,
    bootstrap,
    find_swaps,
)
from emim.evaluation.outputs import ClipOutputs, outputs_under
from emim.evaluation.testing import describe_views
from emim.precision import Precision

FORMAT: Final = 1
"""Version of the JSON: a key changes its meaning, or goes, only with a new one."""


@dataclass(frozen=True)
class ConditionResult:
    """What was measured in one condition.

    Attributes:
        name: see `emim.evaluation.diagnosis.ablations`.
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


_PAIRS: Final = (
    ("", (SHUFFLED, "shuffling the frames"), (REVERSED, "reversing them")),
    (
        "in the EMIM modules, ",
        (MOTION_ZEROED, "zeroing the motion features"),
        (APPEARANCE_ZEROED, "zeroing the appearance path"),
    ),
)


def conclude(conditions: Sequence[ConditionResult], chance: float) -> tuple[str, ...]:
    """A sentence on freezing, one on the order of frames, and one on the network's paths if those were tested.

    "Costs" and "gains" are said where the interval of the difference leaves out zero, "above chance" where that of
    the accuracy lies above it.

    Args:
        conditions: as they are, frozen, and any others.
        chance: accuracy that needs no network.
    """
    by_name = {condition.name: condition for condition in conditions}
    as_is, frozen = by_name[AS_IS], by_name[FROZEN]
    if as_is.accuracy.interval[0] <= chance:
        return (
            f"As they are, the clips are not clearly named better than by chance "
            f"({as_is.accuracy.value:.1%}, chance {chance:.1%}): the other rows say nothing of such a network.",
        )
    sentences = [_on_freezing(as_is, frozen, chance)]
    for where, *pair in _PAIRS:
        told = [f"{what} {_effect(by_name[name])}" for name, what in pair if name in by_name]
        if told:
            sentence = f"{where}{' and '.join(told)}."
            sentences.append(sentence[0].upper() + sentence[1:])
    return tuple(sentences)


def notes_on(emim_modules: Sequence[str], num_frames: int) -> tuple[str, ...]:
    """What to know of the conditions.

    Args:
        emim_modules: names of the network's EMIM modules.
        num_frames: frames of a view.
    """
    notes = []
    if num_frames == 1:
        notes.append("A view has one frame, so freezing, shuffling and reversing change nothing.")
    if emim_modules:
        count = len(emim_modules)
        notes.append(
            f"Zeroing changes the EMIM modules alone ({count}: {', '.join(emim_modules)}). The network's other "
            "attention and its local blocks stay, and they see several frames, too. With the appearance path zeroed, "
            f"the padding of the window (1e-6) still counts at the border."
        )
    else:
        notes.append("The network has no EMIM module, so there is nothing to zero: those two rows are left out.")
    return tuple(notes)


def _on_freezing(as_is: ConditionResult, frozen: ConditionResult, chance: float) -> str:
    difference = frozen.difference
    assert difference is not None
    low, high = difference.interval
    change = f"from {as_is.accuracy.value:.1%} to {frozen.accuracy.value:.1%}"
    if low > 0:
        return f"It does better without motion: frozen, accuracy rises {change}."
    if high >= 0:
        return f"No use of motion was seen: frozen, accuracy goes {change}, {_unclear(difference.interval)}."
    if frozen.accuracy.interval[0] <= chance:
        return f"It needs motion: frozen, accuracy falls {change}, not clearly above chance ({chance:.1%})."
    return (
        f"It uses motion, but not motion alone: frozen, accuracy falls {change}, which is above chance ({chance:.1%})."
    )


def _effect(condition: ConditionResult) -> str:
    difference = condition.difference
    assert difference is not None
    low, high = difference.interval
    if high < 0:
        return f"costs {-100 * difference.value:.1f} points"
    if low > 0:
        return f"gains {100 * difference.value:.1f} points"
    return f"makes {_unclear(difference.interval)}"


def _unclear(interval: tuple[float, float]) -> str:
    low, high = (100 * bound for bound in interval)
    return f"no clear difference ({low:+.1f} to {high:+.1f} points)"


def diagnose(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "32-true",
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis | None:
    """Whether a network uses motion: its accuracy on clips as they are, and with motion taken from clips or network.

    Every video is read once, and every condition takes the same views. As they are, clips are named exactly as
    `emim.evaluation.testing.test_model` names them. A clip that cannot be read is listed as missing.

    Args:
        seed: of the shuffles and the bootstrap, at least 0.
        resamples: of the bootstrap, at least 1.

    Other arguments, and errors: see `emim.evaluation.outputs.outputs_under`. Its weights are in the end as before.

    Returns:
        The diagnosis in the first process, None in the others.
    """
    conditions = conditions_for(model, seed)
    outputs = outputs_under(
        model,
        clip_list,
        preprocessing,
        tuple(conditions.values()),
        device=device,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        group=group,
        progress=progress,
    )
    if outputs is None:
        return None
    return put_together(
        dict(zip(conditions, outputs, strict=True)),
        clip_list,
        preprocessing,
        emim_modules=tuple(emim_modules(model)),
        seed=seed,
        resamples=resamples,
        precision=precision,
    )


def put_together(
    outputs: dict[str, ClipOutputs],
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    emim_modules: tuple[str, ...],
    seed: int,
    resamples: int,
    precision: Precision,
) -> Diagnosis:
    """The diagnosis from the outputs in each condition, of which as they are comes first."""
    plain = outputs[AS_IS]
    label_N = plain.label_N.numpy()
    predicted = {name: found.score_NK.argmax(1).numpy() for name, found in outputs.items()}
    measured = bootstrap(np.stack([named_N == label_N for named_N in predicted.values()]), seed, resamples)
    results = tuple(
        ConditionResult(name, accuracy, None if name == AS_IS else difference, tuple(predicted[name].tolist()))
        for name, accuracy, difference in zip(outputs, measured.accuracy, measured.difference, strict=True)
    )
    chance = int(np.bincount(label_N).max()) / len(label_N)
    return Diagnosis(
        classes=clip_list.classes,
        clips=tuple(clip_list.entries[at] for at in plain.index),
        missing=plain.missing,
        conditions=results,
        chance=chance,
        swaps=find_swaps(label_N, predicted[AS_IS], predicted[REVERSED], len(clip_list.classes)),
        conclusion=conclude(results, chance),
        notes=notes_on(emim_modules, preprocessing.num_frames),
        emim_modules=emim_modules,
        seed=seed,
        resamples=resamples,
        preprocessing=preprocessing,
        precision=precision,
    )
