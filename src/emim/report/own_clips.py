"""Validation clips of a run, for a report without --data."""

from __future__ import annotations

from collections.abc import Sequence

from emim.data.manifest import ClipList
from emim.errors import DataError
from emim.training import run_folder
from emim.training.config import RunConfig

GIVE_DATA = "give labelled clips with --data (a folder of classes, or a manifest CSV)"


def validation_clips(config: RunConfig, classes: Sequence[str]) -> ClipList:
    """Load the validation clips of a configuration; see `emim.training.run_folder.validation_clips`."""
    try:
        return run_folder.validation_clips(config, classes)
    except DataError as error:
        raise DataError(f"{error}; {GIVE_DATA}") from error
