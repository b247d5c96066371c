"""Training and validation steps; Lightning runs the loop.

Shape suffixes: B clips of a batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from emim.data.augment.mix import Mixer
from emim.data.manifest import ClipList
from emim.errors import EmimError
from emim.inference.scoring import score_views
from emim.models import UniFormer
from emim.training.config import OptimConfig
from emim.training.divergence import Divergence, diverged, dump, first_bad_layer
from emim.training.optimisation import learning_rate, parameter_groups
from emim.training.photometric import PhotometricLoss

__all__ = ["ClassificationModule", "ShardedModule"]

_log = logging.getLogger(__name__)


class ClassificationModule(lightning.LightningModule):
    """Soft-target cross-entropy training of a clip classifier.

    The random numbers of a step are seeded by (seed, epoch, micro-batch), where a micro-batch is one batch of one
    process, numbered over all processes. A step therefore depends neither on the number of processes nor on earlier
    steps, and a resumed run continues exactly.

    Args:
        model: the network.
        optim: optimiser and schedule; `lr` is the peak learning rate of this run.
        mixer: mixing within a batch and label smoothing.
        train_clips: the training clips, to name those of a batch with a NaN or infinite loss.
        folder: the run's folder, for the dump of such a batch.
        seed: seed of the random numbers.
        max_seconds: time limit at which the schedule ends, if any.
    """

    def __init__(
        self,
        model: UniFormer,
        optim: OptimConfig,
        mixer: Mixer,
        *,
        train_clips: ClipList,
        folder: Path,
        seed: int,
        max_seconds: float | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.mixer = mixer
        self.train_clips = train_clips
        self.folder = folder
        self.seed = seed
        self.max_seconds = max_seconds
        self.seconds_before = 0.0
        self.photometric = PhotometricLoss(model) if optim.photometric else None
        self.missing: dict[str, EmimError] = {}
        self.has_started = False
        self._started = time.monotonic()
        self.val_top1 = MulticlassAccuracy(model.num_classes, average="micro")
        self.val_loss = MeanMetric()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(
            parameter_groups(self.model, self.optim.weight_decay, self.optim.layer_decay),
            lr=self.optim.lr,
            betas=self.optim.betas,
            eps=self.optim.eps,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the network's weights. If they are sharded, all processes must call this; the first one gets all."""
        return dict(self.model.state_dict())

    def on_train_start(self) -> None:
        """Start the clock."""
        self.has_started = True
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds spent training, over all parts of the run."""
        return self.seconds_before + time.monotonic() - self._started

    def progress(self) -> float:
        """Return the share of the training that is done, by steps or by time, whichever is larger."""
        by_steps = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        by_time = 0.0 if self.max_seconds is None else self.seconds() / self.max_seconds
        return min(1.0, max(by_steps, by_time))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Set the learning rate of the step."""
        del batch, batch_idx
        progress = self.progress()
        if self.max_seconds is not None and self.seconds() >= self.max_seconds:
            self.trainer.should_stop = True
            return -1  # skips the rest of the epoch
        rate = learning_rate(
            progress,
            peak=self.optim.lr,
            floor=self.optim.min_lr,
            warmup=self.optim.warmup_epochs / max(1, self.trainer.max_epochs or 1),
        )
        optimizer = self.optimizers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.log("lr", rate)
        return None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        micro_batch = batch_idx * self.trainer.world_size + self.global_rank
        seed = np.random.SeedSequence((self.seed, self.current_epoch, micro_batch))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        clip_BCTHW, target_BK = self.mixer(batch["clip"], batch["label"], np.random.default_rng(seed))
        loss = self._loss(clip_BCTHW, target_BK)
        if not torch.isfinite(loss):
            self._stop(loss, batch["index"], clip_BCTHW, target_BK)
        self.log("train_loss_step", loss, prog_bar=True, on_step=True, batch_size=len(clip_BCTHW))
        self.log("train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(clip_BCTHW))
        return loss

    def _loss(self, clip_BCTHW: Tensor, target_BK: Tensor) -> Tensor:
        loss = F.cross_entropy(self.model(clip_BCTHW).float(), target_BK)
        if self.photometric is not None:
            added = self.photometric(clip_BCTHW)
            size = len(clip_BCTHW)
            self.log("train_photometric", added, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
            loss = loss + self.optim.photometric * added
        return loss

    def _stop(self, loss: Tensor, index_B: Tensor, clip_BCTHW: Tensor, target_BK: Tensor) -> None:
        entries = self.train_clips.entries
        divergence = Divergence(
            loss=loss.item(),
            step=self.global_step,
            epoch=self.current_epoch,
            layer=self.bad_layer(clip_BCTHW, target_BK),
            clips=tuple(dict.fromkeys(entries[index].path for index in index_B.tolist())),
            process=self.global_rank,
        )
        raise diverged(divergence, dump(self.folder, divergence, clip_BCTHW, target_BK, self.whole_model()))

    def bad_layer(self, clip_BCTHW: Tensor, target_BK: Tensor) -> str:
        """Describe where the values of a batch became NaN or infinite."""
        return first_bad_layer(self.model, clip_BCTHW, target_BK)

    def whole_model(self) -> UniFormer | None:
        """Return the network if this process holds all of it."""
        return self.model

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        """Count the correct predictions of a batch."""
        for item in batch:
            if isinstance(item, EmimError):
                self._note_missing(item)
        readable = [item for item in batch if not isinstance(item, EmimError)]
        if readable:
            score_BK = score_views(self.model, [item["views"] for item in readable], self.device)
            label_B = torch.tensor([item["label"] for item in readable], device=self.device)
            self.val_top1.update(score_BK, label_B)
            self.val_loss.update(F.nll_loss(score_BK.clamp_min(1e-12).log(), label_B), len(readable))
        self.log("val_loss", self.val_loss, on_step=False, on_epoch=True, batch_size=len(batch))
        self.log("val_top1", self.val_top1, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))

    def _note_missing(self, error: EmimError) -> None:
        if str(error) not in self.missing:
            self.missing[str(error)] = error
            _log.warning(f"left out of the validation: {error}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the training time to the checkpoint."""
        checkpoint["emim_seconds"] = self.seconds()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the training time."""
        self.seconds_before = float(checkpoint.get("emim_seconds", 0.0))


class ShardedModule(ClassificationModule):
    """A module whose parameters are sharded among the processes (fully sharded data parallel)."""

    def configure_model(self) -> None:
        """Shard the blocks among the processes."""
        # The warning is about writing into a block's result, which nothing here does.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for stage in (self.model.blocks1, self.model.blocks2, self.model.blocks3, self.model.blocks4):
            for block in stage:
                fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def bad_layer(self, clip_BCTHW: Tensor, target_BK: Tensor) -> str:
        """Say where to find the layer: sharded parameters cannot tell."""
        return "unknown, since no process holds the whole network (trainer.strategy=ddp finds it)"

    def whole_model(self) -> None:
        """Return None: no process has the whole model."""

    def weights(self) -> dict[str, Tensor]:
        """Gather the weights of all processes."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], get_model_state_dict(self.model, options=whole))
