"""The clips that a run is tested on when none are given: its own validation clips."""

from __future__ import annotations

from collections.abc import Sequence

from emim.data import folder
from emim.data.manifest import ClipList
from emim.errors import DataError
from emim.training.config import RunConfig

GIVE_DATA = "give labelled clips with --data (a folder of classes, or a manifest CSV)"


def validation_clips(config: RunConfig, classes: Sequence[str]) -> ClipList:
    """The validation clips of a configuration, in its split.

    Raises:
        DataError: there are none, or they are not where the run found them; says what to give instead.
    """
    data = config.data
    if data.path is None:
        raise DataError(f"the configuration names no data; {GIVE_DATA}")
    try:
        found = folder.validation_clips(
            data.path,
            val=data.val,
            classes=classes,
            val_share=data.val_share,
            seed=config.trainer.seed,
            columns=data.columns,
            group_by=data.group_by,
        )
    except DataError as error:
        raise DataError(f"cannot load the run's validation clips ({error}); {GIVE_DATA}") from error
    if not len(found):
        raise DataError(f"the run held out no clips for validation; {GIVE_DATA}")
    return found
