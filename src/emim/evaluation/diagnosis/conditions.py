"""The conditions of a diagnosis, in their order."""

from __future__ import annotations

from functools import partial
from typing import Final

from torch import Tensor, nn

from emim.evaluation.diagnosis.clips import freeze, reverse, shuffle
from emim.evaluation.diagnosis.network import appearance_zeroed, emim_modules, motion_zeroed
from emim.evaluation.outputs import Condition

AS_IS: Final = "as_is"
FROZEN: Final = "frozen"
SHUFFLED: Final = "shuffled"
REVERSED: Final = "reversed"
MOTION_ZEROED: Final = "motion_zeroed"
APPEARANCE_ZEROED: Final = "appearance_zeroed"


def conditions_for(model: nn.Module, seed: int) -> dict[str, Condition]:
    """Those that the network can be tested in, by name; `AS_IS` comes first.

    A network without EMIM modules has no motion features or appearance path to be zeroed.

    Args:
        model: the network.
        seed: seed of the shuffles, at least 0.
    """
    conditions = {
        AS_IS: Condition(),
        FROZEN: Condition(change_views=lambda views_VCTHW, at: freeze(views_VCTHW)),
        SHUFFLED: Condition(change_views=partial(_shuffled, seed=seed)),
        REVERSED: Condition(change_views=lambda views_VCTHW, at: reverse(views_VCTHW)),
    }
    if emim_modules(model):
        conditions[MOTION_ZEROED] = Condition(change_network=motion_zeroed)
        conditions[APPEARANCE_ZEROED] = Condition(change_network=appearance_zeroed)
    return conditions


def _shuffled(views_VCTHW: Tensor, at: int, *, seed: int) -> Tensor:
    return shuffle(views_VCTHW, at, seed)
