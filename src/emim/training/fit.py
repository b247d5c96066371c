"""Part of this process in a training run: it sets up the trainer, trains, and writes the run's files."""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor

from emim.data.augment.mix import Mixer
from emim.data.manifest import ClipList
from emim.distributed import Processes, ProcessGroup, broadcast, first_process_logger, is_first
from emim.errors import CheckpointError, ConfigError, EmimError
from emim.models import UniFormer
from emim.models.trained_model import ModelCard, check_card, save_model
from emim.precision import resolve_precision
from emim.training.batch_plan import BatchPlan, plan_batches
from emim.training.callbacks import LogEpochs, SaveState, SkipLimit, TrackBest
from emim.training.config import ModelConfig, RunConfig
from emim.training.loaders import ClipDataModule
from emim.training.memory import checkpoint_activations, clips_that_fit, free_bytes
from emim.training.module import ClassificationModule, ShardedModule
from emim.training.recipe import to_dict
from emim.training.run_folder import MODEL_FILE, SUMMARY_FILE, SavedState, csv_log, write_summary

__all__ = ["Fit", "RunResult", "model_arguments"]

_log = first_process_logger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Result of a training run.

    Attributes:
        folder: the run's folder.
        model: file of the trained network, with all that prediction needs.
        metrics: validation top-1 and its epoch, if the run validates.
        seconds: time spent training.
    """

    folder: Path
    model: Path
    metrics: dict[str, Any]
    seconds: float


def model_arguments(config: ModelConfig) -> dict[str, Any]:
    """Return the arguments of `create_model` besides name and classes."""
    return {key: getattr(config, key) for key in ("stem_stride", "window", "drop_path", "dropout")}


class Fit:
    """Train a network.

    Args:
        config: the run.
        model: the network, with the weights to start from.
        train_clips: training clips.
        val_clips: validation clips, if any.
        processes: the processes of the run.
        data: fingerprint of the training clips, see `emim.data.folder.fingerprint`.
        progress_bar: show a progress bar, if standard error is a terminal.

    Raises:
        ConfigError: the batch cannot be divided as the configuration asks, options exclude each other, or a value is
            out of the range that a trained model may have.
    """

    def __init__(
        self,
        config: RunConfig,
        model: UniFormer,
        train_clips: ClipList,
        val_clips: ClipList | None,
        processes: Processes,
        data: Mapping[str, Any],
        progress_bar: bool,
    ) -> None:
        if config.trainer.strategy == "fsdp" and config.trainer.ema > 0:
            raise ConfigError(f"trainer.ema={config.trainer.ema} does not work with trainer.strategy=fsdp; set it to 0")
        if config.trainer.strategy == "fsdp" and config.optim.photometric > 0:
            raise ConfigError(
                f"optim.photometric={config.optim.photometric} does not work with trainer.strategy=fsdp; set it to 0"
            )
        self.config = config
        self.model = model
        self.train_clips = train_clips
        self.val_clips = val_clips
        self.processes = processes
        self.data = data
        self.show_bar = progress_bar and sys.stderr.isatty() and is_first()
        self.metrics: dict[str, Any] = {}
        self.precision = resolve_precision(config.trainer.precision, processes.device.type)
        checkpoint_activations(model, config.trainer.activation_checkpointing)
        self.plan = self._plan()
        _log.info(f"{self.plan}; {self.precision} on {processes}")
        if config.trainer.epochs <= config.optim.warmup_epochs:
            _log.info(
                f"note: the warm-up (optim.warmup_epochs={config.optim.warmup_epochs:g}) takes all of the "
                f"{config.trainer.epochs} epochs, so the learning rate never reaches its peak"
            )
        self.loaders = ClipDataModule(config, train_clips, val_clips, self.plan, processes.devices)
        if is_first():  # the others have no fingerprint of the clips
            check_card(self._card({}))

    def run(self, folder: Path, saved: SavedState | None = None) -> RunResult:
        """Train in `folder`, from the checkpoint of an earlier part of the run if there is one.

        Raises: see `emim.training.run.train`.
        """
        module = self._module(folder)
        if saved is not None:
            saved.check_fit(self.model, module.configure_optimizers())
        if saved is not None and saved.epoch >= self.config.trainer.epochs:
            return self._finish(folder, saved)
        trainer = self._trainer(folder, 0 if saved is None else saved.step)
        try:
            state = None if saved is None else saved.path
            trainer.fit(module, datamodule=self.loaders, ckpt_path=state, weights_only=True)
        except SystemExit as stop:  # raised by the trainer after Ctrl-C
            raise KeyboardInterrupt from stop
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, EmimError) or saved is None or module.has_started:
                raise
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{saved.path}: the run cannot continue from this state ({reason})") from error
        if self.val_clips is None or self.config.trainer.keep == "last" or not (folder / MODEL_FILE).is_file():
            self._save(folder, module.weights(), self.metrics)
        found = ProcessGroup(trainer.global_rank, trainer.world_size).gather(
            (list(self.loaders.skipped.values()), module.missing)
        )
        if is_first() and found is not None:
            skipped = {str(error) for part, _ in found for error in part}
            missing = {text for _, part in found for text in part}
            summary = self._summary(trainer.current_epoch, trainer.global_step, module.seconds())
            write_summary(folder, {**summary, "skipped": sorted(skipped), "missing": sorted(missing)})
        return RunResult(folder, folder / MODEL_FILE, self.metrics, module.seconds())

    def _finish(self, folder: Path, saved: SavedState) -> RunResult:
        """Write the outputs of a run that was killed after its last checkpoint."""
        _log.info(f"{folder}: all {saved.epoch} epochs are done; continue with trainer.epochs=<more>")
        self.metrics.update(saved.metrics)
        if is_first():
            if not (folder / MODEL_FILE).is_file() or self.config.trainer.keep == "last" or self.val_clips is None:
                self._save(folder, saved.weights, self.metrics)
            if not (folder / SUMMARY_FILE).is_file():
                write_summary(folder, self._summary(saved.epoch, saved.step, saved.seconds))
        return RunResult(folder, folder / MODEL_FILE, self.metrics, saved.seconds)

    def _validated(self, folder: Path, trained: ClassificationModule, reached: dict[str, Any], best: bool) -> None:
        if self.config.trainer.keep == "last":
            self.metrics.update(reached)
        elif best:
            self.metrics.update(reached)
            self._save(folder, trained.weights(), reached)

    def _trainer(self, folder: Path, first_step: int) -> lightning.Trainer:
        options = self.config.trainer
        _quieten_lightning()
        loggers: list[Any] = []
        if is_first():
            loggers = [
                csv_log(folder, first_step=first_step),
                TensorBoardLogger(folder, name="", version="tensorboard"),
            ]
        return lightning.Trainer(
            accelerator=options.accelerator,
            devices=self.processes.devices,
            num_nodes=self.processes.nodes,
            strategy=self._strategy(),
            precision=self.precision,
            max_epochs=options.epochs,
            accumulate_grad_batches=self.plan.accumulate,
            gradient_clip_val=self.config.optim.clip_grad or None,
            check_val_every_n_epoch=options.val_every,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=max(1, min(10, len(self.train_clips) // self.plan.global_batch)),
            callbacks=self._callbacks(folder),
            logger=loggers,
            enable_checkpointing=True,
            enable_progress_bar=self.show_bar,
            enable_model_summary=False,
        )

    def _callbacks(self, folder: Path) -> list[lightning.Callback]:
        options = self.config.trainer
        callbacks: list[lightning.Callback] = [LogEpochs()]
        if self.val_clips is not None:
            callbacks.append(TrackBest(lambda *validated: self._validated(folder, *validated)))
        if options.ema > 0:
            callbacks.append(EMAWeightAveraging(decay=options.ema))
        if self.show_bar:
            callbacks.append(RichProgressBar(leave=False))
        return [
            *callbacks,
            SkipLimit(self.loaders),
            SaveState(folder, self.loaders, options.save_minutes, self.metrics),
        ]

    def _strategy(self) -> Strategy | str:
        if self.processes.world == 1:
            return "auto"
        if self.config.trainer.strategy == "fsdp":
            return ModelParallelStrategy(
                data_parallel_size=self.processes.world, tensor_parallel_size=1, save_distributed_checkpoint=False
            )
        return DDPStrategy(gradient_as_bucket_view=True)

    def _plan(self) -> BatchPlan:
        options, pre = self.config.trainer, self.config.preprocessing
        fits = None
        if options.batch_size is None and options.global_batch is not None:
            fits = clips_that_fit(
                self.model,
                (3, pre.num_frames, pre.training_size, pre.training_size),
                room=free_bytes(self.processes.device)
                // (1 if self.processes.device.type == "cuda" else self.processes.devices),
                mixed=self.precision.endswith("mixed"),
                repeats=options.repeats,
            )
            fits = int(broadcast("EMIM_CLIPS_THAT_FIT", str(fits) if is_first() else None))
        return plan_batches(options, self.config.optim, world=self.processes.world, fits=fits)

    def _module(self, folder: Path) -> ClassificationModule:
        mix, options = self.config.mix, self.config.trainer
        mixer = Mixer(
            mix.mixup, mix.cutmix, mix.switch_prob, mix.prob,
            num_classes=len(self.train_clips.classes), label_smoothing=mix.label_smoothing,
        )  # fmt: skip
        sharded = self.processes.world > 1 and options.strategy == "fsdp"
        return (ShardedModule if sharded else ClassificationModule)(
            self.model,
            dataclasses.replace(self.config.optim, lr=self.plan.lr),
            mixer,
            train_clips=self.train_clips,
            folder=folder,
            seed=options.seed,
            max_seconds=None if options.max_minutes is None else 60 * options.max_minutes,
        )

    def _save(self, folder: Path, weights: Mapping[str, Tensor], reached: Mapping[str, Any]) -> None:
        if not is_first():
            return
        save_model(folder / MODEL_FILE, weights, self._card(reached))

    def _card(self, reached: Mapping[str, Any]) -> ModelCard:
        return ModelCard(
            model=self.config.model.name,
            arguments=model_arguments(self.config.model),
            classes=self.train_clips.classes,
            preprocessing=self.config.preprocessing.to_dict(),
            config=to_dict(self.config),
            data={key: self.data[key] for key in ("sha256", "num_clips", "counts")},
            metrics=dict(reached),
        )

    def _summary(self, epochs: int, steps: int, seconds: float) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "seconds": round(seconds, 1),
            "epochs": epochs,
            "steps": steps,
            "global_batch": self.plan.global_batch,
            "processes": self.plan.world,
            "lr": self.plan.lr,
            "precision": self.precision,
            "train_clips": len(self.train_clips),
            "val_clips": 0 if self.val_clips is None else len(self.val_clips),
            "classes": len(self.train_clips.classes),
            "data": self.data["sha256"],
            **self.metrics,
        }


def _quieten_lightning() -> None:
    """Silence banners, tips and advice about loader workers, but not errors."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    # Gradients of channels-last convolutions differ in layout from the reducer's buckets, which is harmless.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
