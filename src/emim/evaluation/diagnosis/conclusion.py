"""What follows from a diagnosis, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from emim.evaluation.diagnosis.conditions import (
    APPEARANCE_ZEROED,
    AS_IS,
    FROZEN,
    MOTION_ZEROED,
    REVERSED,
    SHUFFLED,
)
from emim.evaluation.diagnosis.result import ConditionResult

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
