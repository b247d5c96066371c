"""A training run from a configuration to a folder with a model in it."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from emim.data.folder import Split, fingerprint, load_clips
from emim.data.manifest import ClipList
from emim.data.mix import Mixer
from emim.errors import ConfigError
from emim.models import UniFormer, create_model, load_checkpoint
from emim.models.artifact import ModelCard, save_model
from emim.models.bundled import resolve_checkpoint
from emim.training.callbacks import EpochLines, KeepBest
from emim.training.config import ModelConfig, RunConfig
from emim.training.loaders import ClipDataModule
from emim.training.module import ClassificationModule
from emim.training.recipe import load_recipe, to_dict

CONFIG_FILE = "config.yaml"
MODEL_FILE = "model.safetensors"
RESUME_FILE = "checkpoints/last.ckpt"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and how it ended.

    Attributes:
        folder: the run's folder.
        model: the trained network, with all that prediction needs.
        metrics: validation top-1 and its epoch, if validated.
        seconds: time spent training.
    """

    folder: Path
    model: Path
    metrics: dict[str, Any]
    seconds: float


def train(config: RunConfig, *, say: Callable[[str], None] = print, progress_bar: bool = True) -> RunResult:
    """Train from the beginning in a new folder.

    Args:
        config: the run; `data.path` must be set.
        say: receives lines of progress.
        progress_bar: show one, if standard error is a terminal.

    Raises:
        ConfigError: the configuration cannot be carried out.
        DataError: the data set is unusable.
        VideoError: a video cannot be read.
        CheckpointError: the weights to start from cannot be read or do not fit.
    """
    train_clips, val_clips = _find_clips(config)
    say(train_clips.note or f"{len(train_clips)} training clips from {train_clips.source}")
    lightning.seed_everything(config.trainer.seed, verbose=False)
    model = _build_model(config.model, len(train_clips.classes), say)
    folder = _new_folder(Path(config.output), config.name)
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
    return _fit(config, model, folder, train_clips, val_clips, say, progress_bar, resume=False)


def resume(
    folder: Path, overrides: list[str], *, say: Callable[[str], None] = print, progress_bar: bool = True
) -> RunResult:
    """Go on with an interrupted run in its own folder; arguments and errors as `train`."""
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder}: not a run folder, it has no {CONFIG_FILE}")
    if not (folder / RESUME_FILE).is_file():
        raise ConfigError(f"{folder}: no {RESUME_FILE} to go on from; it ended before its first epoch did")
    config = load_recipe(folder / CONFIG_FILE, overrides)
    train_clips, val_clips = _find_clips(config)
    model = _build_model(dataclasses.replace(config.model, checkpoint=None), len(train_clips.classes), say)
    return _fit(config, model, folder, train_clips, val_clips, say, progress_bar, resume=True)


def _find_clips(config: RunConfig) -> tuple[ClipList, ClipList | None]:
    data = config.data
    if data.path is None:
        raise ConfigError("data.path is not set: give a folder of classes or a manifest, data.path=<folder>")
    if data.val is not None:
        train_clips = load_clips(data.path, split="train", val_share=0.0)
        val_split: Split | None = None if data.val.endswith(".csv") else "val"
        return train_clips, load_clips(data.val, split=val_split, classes=train_clips.classes)
    shared: dict[str, Any] = {"val_share": data.val_share, "seed": config.trainer.seed}
    train_clips = load_clips(data.path, split="train", **shared)
    val_clips = load_clips(data.path, split="val", classes=train_clips.classes, **shared)
    return train_clips, val_clips if len(val_clips) else None


def _build_model(config: ModelConfig, num_classes: int, say: Callable[[str], None]) -> UniFormer:
    model = create_model(config.name, num_classes, **_model_arguments(config))
    if config.checkpoint is not None:
        path = resolve_checkpoint(config.checkpoint)
        say(str(load_checkpoint(model, path, min_coverage=config.min_coverage, verbose=False)))
    return model


def _model_arguments(config: ModelConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("stem_stride", "window", "drop_path", "dropout")}


def _new_folder(output: Path, name: str) -> Path:
    """`output/name`, or with a number where that exists: a run never writes over another."""
    number = 1
    while True:
        folder = output / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"{folder}: the run folder cannot be made ({error})") from error
        else:
            return folder


def _fit(
    config: RunConfig,
    model: UniFormer,
    folder: Path,
    train_clips: ClipList,
    val_clips: ClipList | None,
    say: Callable[[str], None],
    progress_bar: bool,
    *,
    resume: bool,
) -> RunResult:
    options = config.trainer
    mix = config.mix
    mixer = Mixer(
        mix.mixup, mix.cutmix, mix.switch_prob, mix.prob,
        num_classes=len(train_clips.classes), label_smoothing=mix.label_smoothing,
    )  # fmt: skip
    max_seconds = None if options.max_minutes is None else 60 * options.max_minutes
    module = ClassificationModule(model, config.optim, mixer, seed=options.seed, max_seconds=max_seconds)
    metrics: dict[str, Any] = {}

    def save(trained: ClassificationModule, reached: dict[str, Any]) -> None:
        metrics.update(reached)
        card = ModelCard(
            model=config.model.name,
            arguments=_model_arguments(config.model),
            classes=train_clips.classes,
            preprocessing=config.preprocessing.to_dict(),
            config=to_dict(config),
            data=fingerprint(train_clips),
            metrics=reached,
        )
        save_model(folder / MODEL_FILE, trained.model, card)

    show_bar = progress_bar and sys.stderr.isatty()
    callbacks: list[lightning.Callback] = [
        ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
        EpochLines(say),
    ]
    if val_clips is not None:
        callbacks.append(KeepBest(save))
    if options.ema > 0:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    if show_bar:
        callbacks.append(RichProgressBar(leave=False))
    _quieten_lightning()
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=config.optim.clip_grad or None,
        check_val_every_n_epoch=options.val_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
        callbacks=callbacks,
        logger=[
            CSVLogger(folder, name="", version=""),
            TensorBoardLogger(folder, name="", version="tensorboard"),
        ],
        enable_progress_bar=show_bar,
        enable_model_summary=False,
    )
    loaders = ClipDataModule(config, train_clips, val_clips)
    trainer.fit(module, datamodule=loaders, ckpt_path=folder / RESUME_FILE if resume else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not (folder / MODEL_FILE).is_file() or val_clips is None:
        save(module, {})
    result = RunResult(folder, folder / MODEL_FILE, metrics, module.seconds())
    summary = {
        "name": config.name,
        "seconds": round(result.seconds, 1),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "train_clips": len(train_clips),
        "val_clips": 0 if val_clips is None else len(val_clips),
        "classes": len(train_clips.classes),
        **metrics,
    }
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return result


def _quieten_lightning() -> None:
    """Leave out banners, tips and advice about loader workers; errors still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
