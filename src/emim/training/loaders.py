"""Data loaders of training and validation clips, for Lightning."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import lightning
from torch.utils.data import DataLoader, Subset

from emim.data.dataset import TestClips, TrainClips, init_worker
from emim.data.loader import ClipLoader, EpochBatches, ErrorsAsItems, default_workers
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.errors import ConfigError, EmimError
from emim.training.batch_plan import BatchPlan
from emim.training.config import RunConfig

__all__ = ["ClipDataModule", "val_preprocessing"]

_log = logging.getLogger(__name__)


class ClipDataModule(lightning.LightningDataModule):
    """Training and validation loaders of one process of a run.

    Args:
        config: the run's configuration.
        train: training clips.
        val: validation clips; None means no validation.
        plan: the batch.
        devices: processes that share this machine's cores.

    Attributes:
        position: epochs done, and batches done of the next one; saved in the checkpoint of the run.
        skipped: unreadable training clips found so far.
    """

    def __init__(
        self,
        config: RunConfig,
        train: ClipList,
        val: ClipList | None,
        plan: BatchPlan,
        devices: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.train = train
        self.val = val
        self.plan = plan
        self.devices = devices
        self.position = 0, 0
        self.skipped: dict[int, EmimError] = {}

    @property
    def workers(self) -> int:
        """Number of loader workers of this process."""
        given = self.config.data.workers
        return default_workers(self.devices) if given is None else given

    @property
    def max_skipped(self) -> int:
        """Number of training clips that may be unreadable."""
        return int(self.config.data.max_skip_share * len(self.train))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"position": self.position, "division": self.plan.division}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.position = state_dict["position"]
        before, now = tuple(state_dict["division"]), self.plan.division
        if self.position[1] and before != now:
            names = "{} clips a pass, {} passes a step, {} devices"
            raise ConfigError(
                f"the run was interrupted within an epoch with {names.format(*before)}; it cannot continue there with "
                f"{names.format(*now)}, only between epochs"
            )

    def train_dataloader(self) -> ClipLoader:
        """Return the loader of training batches."""
        data, plan = self.config.data, self.plan
        assert self.trainer is not None
        clips = TrainClips(
            self.train,
            self.config.preprocessing,
            self.config.augment,
            self.config.trainer.seed,
            cache=data.cache,
            cache_mb=data.cache_mb / max(1, self.workers),
        )
        batches = EpochBatches(
            len(clips),
            plan.batch_size,
            self.config.trainer.seed,
            accumulate=plan.accumulate,
            repeats=plan.repeats,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        batches.start_at(*self.position)
        loader = ClipLoader(
            clips,
            max_skipped=self.max_skipped,
            on_skip=_log_skipped,
            batch_sampler=batches,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )
        self.skipped = loader.skipped
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of validation clips."""
        if not self.val:
            return []
        assert self.trainer is not None
        clips: Any = ErrorsAsItems(TestClips(self.val, val_preprocessing(self.config)))
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if len(self.val) >= world:  # one process for each clip; fewer clips are run by all, with the same accuracy
            clips = Subset(clips, range(rank, len(self.val), world))
        return DataLoader(
            clips,
            batch_size=self.plan.batch_size,
            num_workers=self.workers,
            worker_init_fn=init_worker,
            collate_fn=list,
        )


def _log_skipped(index: int, error: EmimError) -> None:
    del index
    _log.warning(f"skipped in training: {error}")


def val_preprocessing(config: RunConfig) -> Preprocessing:
    """Return the preprocessing of validation clips."""
    data, pre = config.data, config.preprocessing
    return dataclasses.replace(pre, clips=data.val_clips or pre.clips, crops=data.val_crops or pre.crops)
