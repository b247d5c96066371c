"""Callbacks of the trainer: log lines, the best validation, the limit of unreadable clips, checkpoints of the run.

A checkpoint is written atomically: at the end of every epoch, at intervals within it, and on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint

from emim.distributed import first_process_logger
from emim.errors import BrokenClipsError, EmimError, PreemptedError
from emim.training.loaders import ClipDataModule
from emim.training.module import ClassificationModule
from emim.training.run_folder import STATE_FILE, read_state

__all__ = ["LogEpochs", "SaveState", "SkipLimit", "TrackBest"]

_log = first_process_logger(__name__)


class TrackBest(lightning.Callback):
    """Compare the top-1 of every validation with the best one so far.

    It must come before the callback that averages weights: the averaged weights are then still in the network.

    Args:
        on_validated: called with the module, its metrics, and True if they are at least the best.
    """

    def __init__(self, on_validated: Callable[[ClassificationModule, dict[str, Any], bool], None]) -> None:
        self.on_validated = on_validated
        self.best_top1 = -1.0

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; it is that of version 0.1, whose runs can be resumed."""
        return "TellValidation"

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the result of the validation."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, ClassificationModule)
        top1 = float(pl_module.val_top1.compute())  # over all processes, so each of them must call it
        best = top1 >= self.best_top1
        self.best_top1 = max(top1, self.best_top1)
        self.on_validated(pl_module, {"val_top1": top1, "epoch": trainer.current_epoch}, best)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"best_top1": self.best_top1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.best_top1 = state_dict["best_top1"]


class SkipLimit(lightning.Callback):
    """Stop the run after an epoch in which all processes together have found too many unreadable clips.

    Within an epoch each loader applies the limit to the clips of its own process.

    Args:
        loaders: loaders of this process, with the clips skipped so far and the limit.
    """

    def __init__(self, loaders: ClipDataModule) -> None:
        self.loaders = loaders

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the run if all processes together have skipped too many clips."""
        del pl_module
        if trainer.world_size == 1:
            return
        parts: list[dict[int, EmimError]] = [{} for _ in range(trainer.world_size)]
        dist.all_gather_object(parts, self.loaders.skipped)
        together = {index: error for part in parts for index, error in part.items()}
        if len(together) > self.loaders.max_skipped:
            raise BrokenClipsError(tuple(together[index] for index in sorted(together)), self.loaders.max_skipped)


class LogEpochs(lightning.Callback):
    """Log one line per epoch: loss, validation top-1 and time."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the line of the epoch."""
        del pl_module
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if "train_loss_epoch" in metrics:
            parts.append(f"loss {metrics['train_loss_epoch']:.3f}")
        if "val_top1" in metrics:
            parts.append(f"val top-1 {metrics['val_top1']:.1%}")
        parts.append(f"{time.monotonic() - self._started:.0f} s")
        _log.info("  ".join(parts))


class SaveState(Checkpoint):
    """Save checkpoints of the run, from which it continues exactly, and stop with `PreemptedError` on SIGTERM.

    The file is replaced atomically after it has reached the disk, so a kill at any moment leaves the earlier one.
    Within an epoch, checkpoints are saved between optimiser steps only, since they hold no gradients.

    Args:
        folder: the run's folder; the checkpoint is `checkpoints/last.ckpt` in it.
        loaders: loaders whose position is saved, so that a resumed epoch continues with the next batch.
        minutes: minutes between checkpoints within an epoch.
        metrics: results of the validations so far; saved with the checkpoint, and updated from it.
    """

    def __init__(self, folder: Path, loaders: ClipDataModule, minutes: float, metrics: dict[str, Any]) -> None:
        self.path = folder / STATE_FILE
        self.loaders = loaders
        self.seconds = 60 * minutes
        self.metrics = metrics
        self._saved_at = time.monotonic()
        self._stopping = False
        self._earlier_handler: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"metrics": dict(self.metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.metrics.update(state_dict["metrics"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock and handle SIGTERM."""
        self._saved_at = time.monotonic()
        self._earlier_handler = signal.signal(signal.SIGTERM, self._on_signal)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state if it is time, or if the process was asked to end."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return  # the end of the epoch saves, after the validation
        end, due = self._agreed(trainer, self._stopping), time.monotonic() - self._saved_at >= self.seconds
        if end or self._agreed(trainer, due):
            self._save(trainer, epoch=trainer.current_epoch, batch=done)
        if end:
            raise self._ended(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """End the run if the process was asked to."""
        # Not with several processes: they may validate different numbers of batches, so they cannot stop together.
        if self._stopping and trainer.world_size == 1:
            raise self._ended(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the state, and stop the run if the process was asked to end."""
        self._save(trainer, epoch=trainer.current_epoch + 1, batch=0)
        if self._agreed(trainer, self._stopping):
            raise self._ended(trainer)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Restore the handler of SIGTERM."""
        if self._earlier_handler is not None:
            signal.signal(signal.SIGTERM, self._earlier_handler)
            self._earlier_handler = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    @staticmethod
    def _agreed(trainer: lightning.Trainer, here: bool) -> bool:
        """Return True if `here` is true in any process."""
        if trainer.world_size == 1:
            return here
        return bool(trainer.strategy.reduce_boolean_decision(here, all=False))

    def _save(self, trainer: lightning.Trainer, *, epoch: int, batch: int) -> None:
        self.loaders.position = epoch, batch
        partial = self.path.with_name(f".{self.path.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)
        self._saved_at = time.monotonic()

    def _ended(self, trainer: lightning.Trainer) -> PreemptedError:
        run = self.path.parents[1]
        if not self.path.is_file():
            return PreemptedError(
                f"stopped by SIGTERM before the first checkpoint; start {run} again from the beginning"
            )
        step = read_state(self.path).step
        return PreemptedError(f"stopped by SIGTERM at step {step}, continue with: emim train --resume {run}")
