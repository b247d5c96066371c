"""Diagnose whether a network uses motion: test it under ablations of clips and network, and put the result into words.

The order of this file: the result and its form as JSON (described in docs/guides/diagnose.md), the test, the
sentences that follow from the figures.

Shape suffixes: S clips that could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from emim._moved import renamed
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
    ablations_for,
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
from emim.evaluation.outputs import ClipOutputs, score_ablations
from emim.evaluation.testing import describe_views
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions
from emim.nn.affinity import emim_blocks
from emim.precision import Precision

__all__ = ["FORMAT", "AblationResult", "Diagnosis", "conclude", "diagnose", "diagnosis_from", "notes_on"]

FORMAT: Final = 1
"""Version of the JSON; a key is removed or changes its meaning only with a new version."""


@dataclass(frozen=True)
class AblationResult:
    """Accuracy of the network under one ablation.

    Attributes:
        name: see `emim.evaluation.diagnosis.ablations`.
        accuracy: top-1 accuracy with its 95 % bootstrap interval.
        difference: to the accuracy on the unchanged clips, paired by clip; None for the unchanged clips.
        predicted: index of the predicted class of each clip.
    """

    name: str
    accuracy: Estimate
    difference: Estimate | None
    predicted: tuple[int, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Result of testing the same clips under several ablations. Shares are in [0, 1] of the clips that could be read.

    Attributes:
        classes: class names by index.
        clips: the clips that could be read; `entry.label` is the class index.
        missing: clips that could not be read, with the reason; they count in no figure.
        ablations: results by ablation; the unchanged clips come first.
        chance: accuracy of always predicting the most frequent class of these clips.
        swaps: pairs of classes that are exchanged under reversal, the clearest first.
        conclusion: conclusions, in plain sentences.
        notes: limits of the ablations, in plain sentences.
        emim_modules: names of the network's EMIM modules, the only ones that the ablations of the network change.
        seed: seed of the shuffles and the bootstrap.
        resamples: number of resamples of the bootstrap.
        preprocessing: the views of each video.
        precision: number format of the network.
    """

    classes: tuple[str, ...]
    clips: tuple[ClipEntry, ...]
    missing: tuple[tuple[Path, str], ...]
    ablations: tuple[AblationResult, ...]
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
        """Return plain values for JSON."""
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
            "conditions": [_result_dict(result) for result in self.ablations],
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
            "predicted": {result.name: self.classes[result.predicted[number]] for result in self.ablations},
        }


def _result_dict(result: AblationResult) -> dict[str, Any]:
    difference = result.difference
    return {
        "name": result.name,
        "accuracy": result.accuracy.value,
        "accuracy_95_bootstrap": list(result.accuracy.interval),
        "difference": None if difference is None else difference.value,
        "difference_95_bootstrap": None if difference is None else list(difference.interval),
    }


def diagnose(
    recogniser: Recogniser,
    clip_list: ClipList,
    options: ScoringOptions | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis | None:
    """Test whether a network uses motion: its accuracy on clips as they are, and without motion in clips or network.

    Every video is read once, and all ablations use the same views. On the unchanged clips the predictions are those of
    `emim.evaluation.testing.evaluate`. A clip that cannot be read is listed as missing.

    Args:
        recogniser: the network; afterwards its weights are as before.
        clip_list: the clips, with the classes of the network.
        options: see `emim.inference.scoring.ScoringOptions`.
        seed: seed of the shuffles and the bootstrap, at least 0.
        resamples: number of resamples of the bootstrap, at least 1.
        group: the processes that share the clips out.
        progress: called in the first process with (videos done by all, videos in all).

    Errors: see `emim.evaluation.outputs.score_ablations`.

    Returns:
        The diagnosis in the first process, None in the others.
    """
    options = options or ScoringOptions()
    ablations = ablations_for(recogniser.model, seed)
    outputs = score_ablations(recogniser, clip_list, ablations, options, group=group, progress=progress)
    if outputs is None:
        return None
    return diagnosis_from(outputs, recogniser, clip_list, options, seed=seed, resamples=resamples)


def diagnosis_from(
    outputs: Mapping[str, ClipOutputs],
    recogniser: Recogniser,
    clip_list: ClipList,
    options: ScoringOptions,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Diagnosis:
    """Make the diagnosis from the outputs under each ablation, of which `AS_IS` comes first."""
    preprocessing = options.preprocessing or recogniser.preprocessing
    emim_modules = tuple(emim_blocks(recogniser.model))
    plain = outputs[AS_IS]
    label_S = plain.label_S.numpy()
    predicted = {name: found.score_SK.argmax(1).numpy() for name, found in outputs.items()}
    measured = bootstrap(np.stack([found_S == label_S for found_S in predicted.values()]), seed, resamples)
    results = tuple(
        AblationResult(name, accuracy, None if name == AS_IS else difference, tuple(predicted[name].tolist()))
        for name, accuracy, difference in zip(outputs, measured.accuracy, measured.difference, strict=True)
    )
    chance = int(np.bincount(label_S).max()) / len(label_S)
    return Diagnosis(
        classes=clip_list.classes,
        clips=tuple(clip_list.entries[at] for at in plain.index),
        missing=plain.missing,
        ablations=results,
        chance=chance,
        swaps=find_swaps(label_S, predicted[AS_IS], predicted[REVERSED], len(clip_list.classes)),
        conclusion=conclude(results, chance),
        notes=notes_on(emim_modules, preprocessing.num_frames),
        emim_modules=emim_modules,
        seed=seed,
        resamples=resamples,
        preprocessing=preprocessing,
        precision=recogniser.precision,
    )


_PAIRS: Final = (
    ("", (SHUFFLED, "shuffling the frames"), (REVERSED, "reversing them")),
    (
        "in the EMIM modules, ",
        (MOTION_ZEROED, "zeroing the motion features"),
        (APPEARANCE_ZEROED, "zeroing the appearance path"),
    ),
)


def conclude(results: Sequence[AblationResult], chance: float) -> tuple[str, ...]:
    """Write a sentence on freezing, one on the order of frames, and one on the network's paths if those were tested.

    A cost or gain is claimed only if the interval of the difference excludes zero, and "above chance" only if the
    interval of the accuracy lies above it.

    Args:
        results: of `AS_IS`, `FROZEN`, and any other ablations.
        chance: accuracy of always predicting the most frequent class.
    """
    by_name = {result.name: result for result in results}
    as_is, frozen = by_name[AS_IS], by_name[FROZEN]
    if as_is.accuracy.interval[0] <= chance:
        return (
            f"On the unchanged clips, accuracy is not clearly above chance "
            f"({as_is.accuracy.value:.1%}, chance {chance:.1%}): the other rows mean nothing for such a network.",
        )
    sentences = [_on_freezing(as_is, frozen, chance)]
    for where, *pair in _PAIRS:
        parts = [f"{what} {_effect(by_name[name])}" for name, what in pair if name in by_name]
        if parts:
            sentence = f"{where}{' and '.join(parts)}."
            sentences.append(sentence[0].upper() + sentence[1:])
    return tuple(sentences)


def notes_on(emim_modules: Sequence[str], num_frames: int) -> tuple[str, ...]:
    """Write what limits the ablations.

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


def _on_freezing(as_is: AblationResult, frozen: AblationResult, chance: float) -> str:
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


def _effect(result: AblationResult) -> str:
    difference = result.difference
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


__getattr__ = renamed(__name__, {"ConditionResult": ("AblationResult", AblationResult)})
