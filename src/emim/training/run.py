"""A training run from a configuration to a folder with a model in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import lightning
import yaml

from emim.data.folder import fingerprint, training_and_validation_clips
from emim.data.manifest import ClipList
from emim.distributed import Processes, broadcast, is_first, plan_processes
from emim.environment import describe_machine
from emim.errors import ConfigError
from emim.models import UniFormer, create_model
from emim.models.checkpoint import load_weights
from emim.models.tensor_file import read_tensor_file
from emim.models.trained_model import card_of, has_card, resolve_checkpoint
from emim.nn.layers import init_linear
from emim.training.config import ModelConfig, RunConfig
from emim.training.fit import Fit, RunResult, model_arguments
from emim.training.recipe import load_recipe, to_dict
from emim.training.run_folder import (
    CONFIG_FILE,
    DATA_FILE,
    MODEL_FILE,
    STATE_FILE,
    VERSIONS_FILE,
    data_record,
    read_state,
)
from emim.utils import atomic_write, write_json


def train(config: RunConfig, *, say: Callable[[str], None] = print, progress_bar: bool = True) -> RunResult:
    """Train from the beginning in a new folder.

    Under torchrun or Slurm every process calls this; the first one writes and talks.

    Args:
        config: the run; `data.path` must be set.
        say: receives lines of progress.
        progress_bar: show one, if standard error is a terminal.

    Raises:
        ConfigError: the configuration cannot be carried out.
        DataError: the data set is unusable.
        VideoError: a video cannot be read.
        CheckpointError: the weights to start from cannot be read or do not fit.
        DivergedError: the loss became NaN or infinite.
        PreemptedError: the process was asked to end (SIGTERM); the state is saved.
    """
    say = say if is_first() else _silent
    train_clips, val_clips = _find_clips(config)
    say(train_clips.note or f"{len(train_clips)} training clips from {train_clips.source}")
    if val_clips is not None:
        say(f"validation: {val_clips.note or f'{len(val_clips)} clips from {val_clips.source}'}")
    lightning.seed_everything(config.trainer.seed, verbose=False)
    model = _build_model(config.model, train_clips.classes, say)
    fit = Fit(config, model, train_clips, val_clips, _processes(config), say, progress_bar)
    folder = _agree_on_folder(_new_folder(config) if is_first() else None)
    if is_first():
        write_json(folder / DATA_FILE, data_record(train_clips, val_clips))
        write_json(folder / VERSIONS_FILE, describe_machine().to_dict())
    return fit.run(folder)


def resume(
    folder: Path, overrides: list[str], *, say: Callable[[str], None] = print, progress_bar: bool = True
) -> RunResult:
    """Go on with an interrupted run in its own folder; arguments and errors as `train`."""
    say = say if is_first() else _silent
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder}: not a run folder, it has no {CONFIG_FILE}")
    if not (folder / STATE_FILE).is_file():
        raise ConfigError(f"{folder}: no {STATE_FILE} to go on from; it ended before its first state was saved")
    saved = read_state(folder / STATE_FILE)
    config = load_recipe(folder / CONFIG_FILE, overrides)
    train_clips, val_clips = _find_clips(config)
    _check_same_clips(folder, train_clips)
    processes = _processes(config)
    if config.trainer.batch_size is None and saved.division[2] == processes.world:
        # What fits may have changed by a little since; what the run divides its clips by must not.
        options = dataclasses.replace(config.trainer, batch_size=saved.division[0])
        config = dataclasses.replace(config, trainer=options)
    model = _build_model(dataclasses.replace(config.model, checkpoint=None), train_clips.classes, say)
    fit = Fit(config, model, train_clips, val_clips, processes, say, progress_bar)
    if overrides and is_first():
        _write_config(folder, load_recipe(folder / CONFIG_FILE, overrides))
    return fit.run(folder, saved)


def _check_same_clips(folder: Path, train_clips: ClipList) -> None:
    """A run goes on exactly only with the clips that it began with."""
    record = folder / DATA_FILE
    if not record.is_file():
        return
    try:
        before = json.loads(record.read_text(encoding="utf-8"))["train"]
        same = before["sha256"] == fingerprint(train_clips)["sha256"]
        count = before["num_clips"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{record}: not a readable record of the training clips ({error!r})") from error
    if not same:
        raise ConfigError(
            f"{folder}: the training clips have changed since the run began, from {count} to "
            f"{len(train_clips)}, or in names or classes; begin a new run with "
            f"model.checkpoint={folder / MODEL_FILE}"
        )


def _agree_on_folder(folder: Path | None) -> Path:
    return Path(broadcast("EMIM_RUN_FOLDER", None if folder is None else str(folder)))


def _processes(config: RunConfig) -> Processes:
    return plan_processes(config.trainer.devices, config.trainer.nodes, config.trainer.accelerator)


def _silent(line: str) -> None:
    del line


def _find_clips(config: RunConfig) -> tuple[ClipList, ClipList | None]:
    data = config.data
    if data.path is None:
        raise ConfigError("data.path is not set: give a folder of classes or a manifest, data.path=<folder>")
    return training_and_validation_clips(
        data.path,
        val=data.val,
        val_share=data.val_share,
        seed=config.trainer.seed,
        max_missing=data.max_skip_share,
        columns=data.columns,
        group_by=data.group_by,
    )


def _build_model(config: ModelConfig, classes: tuple[str, ...], say: Callable[[str], None]) -> UniFormer:
    model = create_model(config.name, len(classes), **model_arguments(config))
    if config.checkpoint is not None:
        file = read_tensor_file(resolve_checkpoint(config.checkpoint))
        say(str(load_weights(model, file, min_coverage=config.min_coverage)))
        if has_card(file):  # weights from elsewhere say nothing about their classes
            _check_head(model, file.path, card_of(file).classes, classes, say)
    return model


def _check_head(
    model: UniFormer, path: Path, theirs: tuple[str, ...], classes: tuple[str, ...], say: Callable[[str], None]
) -> None:
    """A head of as many classes fits by its shape; it must also mean the same classes."""
    if theirs == classes or len(theirs) != len(classes):
        return
    if sorted(theirs) == sorted(classes):
        place = next(index for index, (one, other) in enumerate(zip(theirs, classes, strict=True)) if one != other)
        raise ConfigError(
            f"{path}: the same classes in another order, class {place} is {theirs[place]!r} there and "
            f"{classes[place]!r} in the training clips; bring the class list (classes.txt) into one order"
        )
    init_linear(model.head)
    say(f"{path}: other classes, so the head starts anew")


def _new_folder(config: RunConfig) -> Path:
    """A new folder with the configuration in it; numbered where the name exists: no run writes over another."""
    number = 1
    while True:
        folder = Path(config.output) / (config.name if number == 1 else f"{config.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"{folder}: the run folder cannot be made ({error})") from error
        else:
            _write_config(folder, config)
            return folder


def _write_config(folder: Path, config: RunConfig) -> None:
    with atomic_write(folder / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
