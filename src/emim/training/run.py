"""Train a network from a configuration, or resume an interrupted run, in a run folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning

from emim.distributed import Processes, broadcast, first_process_logger, is_first, plan_processes
from emim.errors import ConfigError
from emim.models import UniFormer, create_model
from emim.models.checkpoint import load_weights
from emim.models.tensor_file import read_tensor_file
from emim.models.trained_model import card_of, has_card, resolve_checkpoint
from emim.nn.layers import init_linear
from emim.training.config import ModelConfig, RunConfig
from emim.training.fit import Fit, RunResult, model_arguments
from emim.training.recipe import load_recipe
from emim.training.run_folder import (
    CONFIG_FILE,
    DATA_FILE,
    MODEL_FILE,
    STATE_FILE,
    check_run_folder,
    data_record,
    find_clips,
    make_run_folder,
    read_state,
    write_config,
    write_record,
)
from emim.utils import is_file

__all__ = ["RunResult", "resume", "train"]

_log = first_process_logger(__name__)


def train(config: RunConfig, *, progress_bar: bool = True) -> RunResult:
    """Train from the beginning in a new folder.

    Progress is logged to "emim.training". Under torchrun or Slurm every process calls this function; the first one
    writes files and logs.

    Args:
        config: the run; `data.path` must be set.
        progress_bar: show a progress bar, if standard error is a terminal.

    Raises:
        ConfigError: the configuration cannot be carried out.
        DataError: the data set is unusable.
        VideoError: a video cannot be read.
        CheckpointError: the weights to start from cannot be read or do not fit.
        DivergedError: the loss became NaN or infinite.
        PreemptedError: the process was asked to end (SIGTERM); the state is saved.
    """
    train_clips, val_clips = find_clips(config)
    _log.info(train_clips.note or f"{len(train_clips)} training clips from {train_clips.source}")
    if val_clips is not None:
        _log.info(f"validation: {val_clips.note or f'{len(val_clips)} clips from {val_clips.source}'}")
    lightning.seed_everything(config.trainer.seed, verbose=False)
    model = _build_model(config.model, train_clips.classes)
    record = data_record(train_clips, val_clips)
    fit = Fit(config, model, train_clips, val_clips, _processes(config), record["train"], progress_bar)
    new = make_run_folder(config) if is_first() else None
    folder = Path(broadcast("EMIM_RUN_FOLDER", None if new is None else str(new)))
    if is_first():
        write_record(folder, record)
    return fit.run(folder)


def resume(folder: Path, overrides: list[str], *, progress_bar: bool = True) -> RunResult:
    """Continue an interrupted run in its own folder; errors as for `train`.

    Args:
        folder: the run's folder.
        overrides: changes of its configuration, see `emim.training.recipe.load_recipe`.
        progress_bar: show a progress bar, if standard error is a terminal.
    """
    check_run_folder(folder)
    if not is_file(folder / STATE_FILE):
        raise ConfigError(f"{folder}: no {STATE_FILE} to continue from; the run ended before its first checkpoint")
    saved = read_state(folder / STATE_FILE)
    config = load_recipe(folder / CONFIG_FILE, overrides)
    train_clips, val_clips = find_clips(config)
    record = data_record(train_clips, None)["train"]
    _check_same_clips(folder, record)
    processes = _processes(config)
    if config.trainer.batch_size is None and saved.division[2] == processes.world:
        # The free memory may have changed since; the division of a step among passes must not.
        options = dataclasses.replace(config.trainer, batch_size=saved.division[0])
        config = dataclasses.replace(config, trainer=options)
    model = _build_model(dataclasses.replace(config.model, checkpoint=None), train_clips.classes)
    fit = Fit(config, model, train_clips, val_clips, processes, record, progress_bar)
    if overrides and is_first():
        write_config(folder, load_recipe(folder / CONFIG_FILE, overrides))
    return fit.run(folder, saved)


def _check_same_clips(folder: Path, record: dict[str, Any]) -> None:
    """Raise ConfigError if the training clips are not those that the run began with."""
    path = folder / DATA_FILE
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["train"]
        digest, count = before["sha256"], before["num_clips"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable record of the training clips ({error!r})") from error
    if digest != record["sha256"]:
        raise ConfigError(
            f"{folder}: the training clips have changed since the run began, from {count} to {record['num_clips']}, "
            f"or in names or classes; begin a new run with model.checkpoint={folder / MODEL_FILE}"
        )


def _processes(config: RunConfig) -> Processes:
    return plan_processes(config.trainer.devices, config.trainer.nodes, config.trainer.accelerator)


def _build_model(config: ModelConfig, classes: tuple[str, ...]) -> UniFormer:
    model = create_model(config.name, len(classes), **model_arguments(config))
    if config.checkpoint is not None:
        file = read_tensor_file(resolve_checkpoint(config.checkpoint))
        _log.info(str(load_weights(model, file, min_coverage=config.min_coverage)))
        if has_card(file):  # weights from elsewhere do not name their classes
            _check_head(model, file.path, card_of(file).classes, classes)
    return model


def _check_head(model: UniFormer, path: Path, theirs: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Initialise the head if the checkpoint has other classes, even if there are as many of them.

    Raises:
        ConfigError: the same classes in another order.
    """
    if theirs == classes or len(theirs) != len(classes):
        return
    if sorted(theirs) == sorted(classes):
        place = next(index for index, (one, other) in enumerate(zip(theirs, classes, strict=True)) if one != other)
        raise ConfigError(
            f"{path}: the same classes in another order, class {place} is {theirs[place]!r} there and "
            f"{classes[place]!r} in the training clips; bring the class list (classes.txt) into one order"
        )
    init_linear(model.head)
    _log.info(f"{path}: other classes, so the head starts from random weights")
