"""Files of a run folder: their names, readers and writers, and the clips of the run; Lightning is not imported."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from emim.data import folder as folder_clips
from emim.data.folder import fingerprint, training_and_validation_clips
from emim.data.manifest import ClipList
from emim.environment import describe_machine
from emim.errors import CheckpointError, ConfigError, DataError
from emim.models.checkpoint import check_fit
from emim.models.tensor_file import IF_TRUSTED, read_dictionary
from emim.models.trained_model import ModelCard, read_card
from emim.training.config import Amount, Natural, RunConfig
from emim.training.recipe import load_recipe, to_dict
from emim.utils import atomic_write, is_file, is_folder, write_json

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger

__all__ = [
    "CONFIG_FILE",
    "DATA_FILE",
    "LOG_FILE",
    "MODEL_FILE",
    "STATE_FILE",
    "SUMMARY_FILE",
    "VERSIONS_FILE",
    "History",
    "RunRecord",
    "SavedState",
    "check_run_folder",
    "csv_log",
    "data_record",
    "find_clips",
    "make_run_folder",
    "read_history",
    "read_run",
    "read_state",
    "subsample",
    "validation_clips",
    "write_config",
    "write_record",
    "write_summary",
]

MODEL_FILE = "model.safetensors"
SUMMARY_FILE = "summary.json"
CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
VERSIONS_FILE = "versions.json"
LOG_FILE = "metrics.csv"
STATE_FILE = "checkpoints/last.ckpt"

_NETWORK = "model."
_Some = Annotated[int, Field(ge=1, le=2**20)]


def find_clips(config: RunConfig) -> tuple[ClipList, ClipList | None]:
    """Load the lists of training and validation clips; the second one is None if nothing is held out.

    Raises:
        ConfigError: `data.path` is not set.
        DataError: a folder or manifest is unusable.
    """
    data = config.data
    if data.path is None:
        raise ConfigError("data.path is not set: give a folder of classes or a manifest, data.path=<folder>")
    return training_and_validation_clips(data.path, max_missing=data.max_skip_share, **_clip_arguments(config))


def validation_clips(config: RunConfig, classes: Sequence[str]) -> ClipList:
    """Load the list of a run's validation clips, for a test of the trained network.

    Args:
        config: the run's configuration.
        classes: class names of the network by index.

    Raises:
        DataError: the configuration names no data, the run held out no clips, or they cannot be found.
    """
    if config.data.path is None:
        raise DataError("the configuration names no data")
    try:
        found = folder_clips.validation_clips(config.data.path, classes=classes, **_clip_arguments(config))
    except DataError as error:
        raise DataError(f"cannot load the run's validation clips ({error})") from error
    if not len(found):
        raise DataError("the run held out no clips for validation")
    return found


def _clip_arguments(config: RunConfig) -> dict[str, Any]:
    """Arguments that the functions of `emim.data.folder` share."""
    data = config.data
    return {
        "val": data.val,
        "val_share": data.val_share,
        "seed": config.trainer.seed,
        "columns": data.columns,
        "group_by": data.group_by,
    }


def check_run_folder(folder: Path) -> None:
    """Raise ConfigError unless the folder is one that a training run wrote."""
    name = str(folder) if len(str(folder)) < 1000 else f"{str(folder)[:100]}..."
    if not is_folder(folder):
        raise ConfigError(f"{name}: not a run folder, no such folder exists")
    if not is_file(folder / CONFIG_FILE):
        raise ConfigError(f"{name}: not a run folder, it has no {CONFIG_FILE}; give the folder that a training wrote")


def make_run_folder(config: RunConfig) -> Path:
    """Make a new folder with the configuration in it; its name is numbered if the run's name is taken.

    Raises:
        ConfigError: the folder cannot be made.
    """
    number = 1
    while True:
        folder = Path(config.output) / (config.name if number == 1 else f"{config.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"{folder}: the run folder cannot be made ({error.strerror})") from error
        else:
            write_config(folder, config)
            return folder


def write_config(folder: Path, config: RunConfig) -> None:
    """Write `config.yaml`."""
    with atomic_write(folder / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `data.json` (from `data_record`) and `versions.json`, the machine and its packages."""
    write_json(folder / DATA_FILE, record)
    write_json(folder / VERSIONS_FILE, describe_machine().to_dict())


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`, which marks the run as finished."""
    write_json(folder / SUMMARY_FILE, summary)


def data_record(train: ClipList, val: ClipList | None) -> dict[str, dict[str, Any]]:
    """Return the sources and fingerprints (hash of the list, counts per class) of the clips, by part."""
    parts = {"train": train} if val is None else {"train": train, "val": val}
    return {name: {"source": str(part.source), "note": part.note, **fingerprint(part)} for name, part in parts.items()}


def csv_log(folder: Path, *, first_step: int) -> CSVLogger:
    """Return a logger that writes `metrics.csv` and keeps the rows of an earlier part of the run.

    Args:
        folder: the run's folder.
        first_step: step that this part begins with; rows of the earlier part from this step on are dropped.

    Raises:
        ConfigError: the log of the earlier part cannot be read.
    """
    from lightning.pytorch.loggers import CSVLogger

    path = folder / LOG_FILE
    try:
        earlier = read_history(path).rows if path.is_file() else ()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable log ({error}); move it away to continue without it") from error
    logger = CSVLogger(folder, name="", version="")
    writer = logger.experiment  # removes the file
    for row in earlier:
        if 0 <= row["step"] < first_step:
            writer.log_metrics(row, int(row["step"]))
    writer.save()
    return logger


@dataclass(frozen=True)
class SavedState:
    """Checkpoint of a run.

    Attributes:
        path: the file.
        step: optimiser steps done.
        epoch: epochs done.
        batch: batches of the next epoch that are done, in each process.
        division: clips per device and pass, passes, and devices of a step.
        seconds: time spent training.
        metrics: results of the validations.
        weights: weights that become the model: their moving average, if the run keeps one.
        optimizer: state of the optimiser, as `torch.optim.Optimizer.state_dict` gives it.
    """

    path: Path
    step: int
    epoch: int
    batch: int
    division: tuple[int, int, int]
    seconds: float
    metrics: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]

    def check_fit(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Raise CheckpointError unless weights and optimiser state have the names and shapes that a run expects."""
        check_fit(self.path, model.state_dict(), self.weights)
        moments, groups = self.optimizer.get("state"), self.optimizer.get("param_groups")
        if not isinstance(moments, dict) or not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
            raise CheckpointError(f"{self.path}: not a state of this run's optimiser")
        for number, (theirs, ours) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
            if not isinstance(theirs, dict) or (missing := ours.keys() - theirs.keys()):
                lacks = f" ({', '.join(sorted(missing))} missing)" if isinstance(theirs, dict) else ""
                raise CheckpointError(f"{self.path}: optimiser group {number} is incomplete{lacks}")
            if not isinstance(theirs["params"], list) or len(theirs["params"]) != len(ours["params"]):
                raise CheckpointError(f"{self.path}: optimiser group {number} is of other parameters than this run's")
            for name, parameter in zip(theirs["params"], ours["params"], strict=True):
                kept = moments.get(name, {}) if isinstance(name, int) else None
                if not isinstance(kept, dict):
                    raise CheckpointError(f"{self.path}: not a state of this run's optimiser")
                for key, value in kept.items():
                    if not isinstance(value, Tensor) or (value.dim() and value.shape != parameter.shape):
                        shape = list(parameter.shape)
                        raise CheckpointError(f"{self.path}: {key} of parameter {name} does not fit one of {shape}")


class _Position(BaseModel):
    position: tuple[Natural, Natural]
    division: tuple[_Some, _Some, _Some]


class _Metrics(BaseModel):
    metrics: dict[str, float | int]


class _Callbacks(BaseModel):
    SaveState: _Metrics


class _State(BaseModel):
    """Entries of a checkpoint that are read here; Lightning reads the others."""

    global_step: Natural
    emim_seconds: Amount
    ClipDataModule: _Position
    callbacks: _Callbacks
    state_dict: dict[str, Any]
    optimizer_states: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)]


def read_state(path: Path) -> SavedState:
    """Read a checkpoint of a run; tensors stay on disk until they are used. The file cannot run code.

    Raises:
        CheckpointError: the file cannot be read, holds other things than plain values and tensors, or is not
            a checkpoint of a run.
    """
    try:
        state = _State.model_validate(read_dictionary(path), strict=True)
    except (CheckpointError, ValidationError) as error:
        reason = str(error).removeprefix(f"{path}: ").removesuffix(IF_TRUSTED)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        model = path.parents[1] / MODEL_FILE
        raise CheckpointError(
            f"{path}: not a readable state of a run: {reason}. A new run can begin with model.checkpoint={model}"
        ) from error
    weights = {
        name.removeprefix(_NETWORK): value
        for name, value in state.state_dict.items()
        if isinstance(value, Tensor) and name.startswith(_NETWORK)
    }
    return SavedState(
        path=path,
        step=state.global_step,
        epoch=state.ClipDataModule.position[0],
        batch=state.ClipDataModule.position[1],
        division=state.ClipDataModule.division,
        seconds=state.emim_seconds,
        metrics=dict(state.callbacks.SaveState.metrics),
        weights=weights,
        optimizer=state.optimizer_states[0],
    )


Row = dict[str, float]
Point = tuple[float, float]
"""Epochs (or steps) done, and the value."""


@dataclass(frozen=True)
class History:
    """Rows of `metrics.csv` in order of their steps; each has `step` and the figures that were logged at it."""

    rows: tuple[Row, ...]

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimiser steps per epoch; None until an epoch has ended."""
        ends = [row for row in self.rows if "train_loss_epoch" in row and "epoch" in row]
        return None if not ends else (ends[-1]["step"] + 1) / (ends[-1]["epoch"] + 1)

    @property
    def axis(self) -> Literal["epoch", "step"]:
        """Unit of the horizontal axis: epochs, or steps until an epoch has ended."""
        return "step" if self.steps_per_epoch is None else "epoch"

    @property
    def epochs_done(self) -> int:
        """Number of epochs that have ended."""
        return max(
            (int(row["epoch"]) + 1 for row in self.rows if "train_loss_epoch" in row and "epoch" in row), default=0
        )

    @property
    def steps_done(self) -> int:
        """Number of optimiser steps in the log."""
        return max((int(row["step"]) + 1 for row in self.rows), default=0)

    def series(self, key: str) -> tuple[Point, ...]:
        """Return the finite values of a figure, over epochs (or steps, see `axis`)."""
        per_epoch = self.steps_per_epoch or 1.0
        return tuple(
            ((row["step"] + 1) / per_epoch, row[key]) for row in self.rows if math.isfinite(row.get(key, math.nan))
        )

    def not_finite(self, key: str) -> int:
        """Count the values of a figure that are NaN or infinite."""
        return sum(not math.isfinite(row[key]) for row in self.rows if key in row)


def read_history(path: Path) -> History:
    """Read a `metrics.csv`.

    Raises:
        OSError: the file cannot be read.
        ValueError: a value is not a number.
    """
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as file:
        for values in csv.DictReader(file):
            if not values.get("step"):
                continue  # a line that a crash cut short
            rows.append({key: float(text) for key, text in values.items() if key and text})
    return History(tuple(sorted(rows, key=lambda row: row["step"])))


def subsample(points: tuple[Point, ...], most: int) -> tuple[Point, ...]:
    """Subsample a curve to at most `most` points, each the mean of neighbouring ones."""
    if len(points) <= most:
        return points
    bounds = [round(part * len(points) / most) for part in range(most + 1)]
    groups = [points[low:high] for low, high in itertools.pairwise(bounds)]
    return tuple((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups)


Ending = Literal["finished", "diverged", "unfinished"]


@dataclass(frozen=True)
class RunRecord:
    """Content of a run folder. Parts that are absent or cannot be read are None or empty, and named in `gaps`.

    Attributes:
        folder: the run's folder.
        config: the configuration.
        data: fingerprints by part ("train", "val"); see `emim.training.run_folder.data_record`.
        machine: hardware and software; see `emim.environment.Machine.to_dict`.
        summary: `summary.json`.
        card: card of the trained network.
        history: rows of `metrics.csv`.
        divergences: descriptions of NaN or infinite losses, oldest first.
        gaps: sentences that name what is missing.
    """

    folder: Path
    config: RunConfig | None
    data: dict[str, dict[str, Any]]
    machine: dict[str, Any]
    summary: dict[str, Any]
    card: ModelCard | None
    history: History
    divergences: tuple[dict[str, Any], ...]
    gaps: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder, which differs between runs of one configuration."""
        return self.folder.resolve().name

    @property
    def model_file(self) -> Path:
        """Path of the trained network, whether or not it exists."""
        return self.folder / MODEL_FILE

    @property
    def ending(self) -> Ending:
        """State of the run: finished, diverged or unfinished."""
        if self.summary:
            return "finished"
        return "diverged" if self.divergences else "unfinished"


def read_run(folder: Path) -> RunRecord:
    """Read a run folder; its checkpoint is not opened.

    Raises:
        ConfigError: not a run folder.
    """
    check_run_folder(folder)
    gaps: list[str] = []
    divergences = tuple(
        found
        for path in sorted(folder.glob("diverged-step-*/divergence.json"), key=lambda path: path.stat().st_mtime)
        if (found := _read_json(path, gaps))
    )
    summary = _read_json(folder / SUMMARY_FILE, gaps) if (folder / SUMMARY_FILE).is_file() else {}
    if not summary:
        gaps.append(
            f"The run has not finished: there is no {SUMMARY_FILE}, and so no time, steps or list of skipped "
            f"clips. `emim train --resume {folder}` continues it."
        )
    return RunRecord(
        folder=folder,
        config=_read_config(folder / CONFIG_FILE, gaps),
        data=_read_json(folder / DATA_FILE, gaps),
        machine=_read_json(folder / VERSIONS_FILE, gaps),
        summary=summary,
        card=_read_card(folder / MODEL_FILE, gaps),
        history=_read_history(folder / LOG_FILE, gaps),
        divergences=divergences,
        gaps=tuple(gaps),
    )


def _read_json(path: Path, gaps: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        gaps.append(f"There is no {path.name}.")
    except (OSError, ValueError, RecursionError) as error:
        gaps.append(f"{path.name} cannot be read ({error}).")
    else:
        if isinstance(content, dict):
            return content
        gaps.append(f"{path.name} holds no JSON object.")
    return {}


def _read_config(path: Path, gaps: list[str]) -> RunConfig | None:
    try:
        return load_recipe(path)
    except ConfigError as error:
        gaps.append(f"The configuration cannot be read: {error}.")
        return None


def _read_card(path: Path, gaps: list[str]) -> ModelCard | None:
    if not path.is_file():
        gaps.append(f"There is no {path.name}: the run saved no network, so nothing could be tested.")
        return None
    try:
        return read_card(path)
    except CheckpointError as error:
        gaps.append(f"The network cannot be read, so nothing could be tested: {error}.")
        return None


def _read_history(path: Path, gaps: list[str]) -> History:
    try:
        history = read_history(path)
    except FileNotFoundError:
        gaps.append(f"There is no {path.name}, so there are no curves: the run ended before its first line.")
        return History(())
    except (OSError, ValueError) as error:
        gaps.append(f"{path.name} cannot be read, so there are no curves ({error}).")
        return History(())
    if not history.rows:
        gaps.append(f"{path.name} holds no row yet, so there are no curves.")
    return history
