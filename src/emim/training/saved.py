"""What the state of a run on disk says, without going on from it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emim.errors import CheckpointError

STATE_FILE = "checkpoints/last.ckpt"
_NETWORK = "model."


@dataclass(frozen=True)
class SavedState:
    """The state of a run.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        batch: batches of the next epoch that are done already, in each process.
        division: how the clips of a step were divided: clips per device and pass, passes, devices.
        seconds: time spent training.
        metrics: what the validations reached.
        weights: those that become the model: their moving average, if the run keeps one.
    """

    step: int
    epoch: int
    batch: int
    division: tuple[int, int, int]
    seconds: float
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


def read_state(path: Path) -> SavedState:
    """Read a state; tensors stay on disk until they are used.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        # A file of the run's own making, which holds more than tensors.
        stored = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
        loaders = stored["ClipDataModule"]
        return SavedState(
            step=int(stored["global_step"]),
            epoch=loaders["position"][0],
            batch=loaders["position"][1],
            division=tuple(loaders["division"]),
            seconds=float(stored["emim_seconds"]),
            metrics=dict(stored["callbacks"]["SaveState"]["metrics"]),
            weights={
                name.removeprefix(_NETWORK): value
                for name, value in stored["state_dict"].items()
                if name.startswith(_NETWORK)
            },
        )
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable state of a run ({' '.join(str(error).split())})") from error
