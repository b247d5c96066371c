"""Test a network on labelled clips with fixed views, and count exactly what was tested.

Shape suffixes: B videos, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emim.data.dataset import TestClips, init_worker
from emim.data.loader import ErrorsAsItems
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.errors import DataError, EmimError
from emim.evaluation.views import score_views


@dataclass(frozen=True)
class ClassResult:
    """Accuracy on the clips of one class; None where no clip of it was tested."""

    name: str
    clips: int
    top1: float | None


@dataclass(frozen=True)
class TestResult:
    """What a test measured. Accuracies are shares in [0, 1] of the clips that could be read.

    Attributes:
        clips: clips tested.
        missing: clips that could not be read, with the reason. They are in no accuracy.
        top1: share of clips whose best class is right.
        top5: share whose label is among the five best (of fewer than six classes: always 1).
        mean_class: mean over the classes that have clips of their top-1.
        per_class: top-1 of each class, in class order.
        confusion: rows are labels, columns the best classes, in counts.
        views: clips x crops of each video.
    """

    __test__ = False  # not a test case, whatever its name looks like to pytest

    clips: int
    missing: tuple[tuple[Path, str], ...]
    top1: float
    top5: float
    mean_class: float
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    views: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "clips": self.clips,
            "missing": [{"path": str(path), "reason": reason} for path, reason in self.missing],
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "views": self.views,
            "per_class": [
                {"class": result.name, "clips": result.clips, "top1": result.top1} for result in self.per_class
            ],
            "confusion": [list(row) for row in self.confusion],
        }


def test_model(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TestResult:
    """Top-1, top-5, mean-class accuracy and confusion on fixed views.

    A clip that cannot be read is listed as missing and never replaced by another.

    Args:
        model: [B, 3, T, H, W] to logits [B, K]; put in evaluation mode.
        clip_list: the clips and the class names, in the order of the network's classes.
        preprocessing: views and normalisation.
        device: where to run.
        batch_size: videos per batch.
        workers: loader processes; results do not depend on it.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: there are no clips, or none could be read.
    """
    if len(clip_list) == 0:
        raise DataError(f"{clip_list.source}: no clips to test")
    device = torch.device(device)
    model = model.to(device).eval()
    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(TestClips(clip_list, preprocessing)),
        batch_size=batch_size,
        num_workers=workers,
        worker_init_fn=init_worker,
        collate_fn=list,
    )
    scores: list[Tensor] = []
    labels: list[int] = []
    missing: list[tuple[Path, str]] = []
    seen = 0
    with torch.inference_mode():
        for batch in loader:
            for offset, item in enumerate(batch):
                if isinstance(item, EmimError):
                    missing.append((clip_list.entries[seen + offset].path, str(item)))
            seen += len(batch)
            readable = [item for item in batch if not isinstance(item, EmimError)]
            if readable:
                scores.append(score_views(model, [item["views"] for item in readable], device).cpu())
                labels += [item["label"] for item in readable]
            if progress is not None:
                progress(seen, len(clip_list))
    if not scores:
        raise DataError(f"{clip_list.source}: none of its {len(clip_list)} clips could be read; {missing[0][1]}")
    return summarise(
        torch.cat(scores),
        torch.tensor(labels),
        clip_list.classes,
        missing=tuple(missing),
        views=preprocessing.num_views,
    )


def summarise(
    score_BK: Tensor,
    label_B: Tensor,
    classes: tuple[str, ...],
    *,
    missing: tuple[tuple[Path, str], ...] = (),
    views: int = 1,
) -> TestResult:
    """Accuracies from scores and labels; see `TestResult`."""
    best_BK = score_BK.topk(min(5, score_BK.shape[1]), dim=-1).indices
    right_BK = best_BK == label_B[:, None]
    confusion_KK = multiclass_confusion_matrix(best_BK[:, 0], label_B, num_classes=len(classes))
    counts = confusion_KK.sum(1).tolist()
    hits = confusion_KK.diagonal().tolist()
    per_class = tuple(
        ClassResult(name, count, hit / count if count else None)
        for name, count, hit in zip(classes, counts, hits, strict=True)
    )
    known = [result.top1 for result in per_class if result.top1 is not None]
    return TestResult(
        clips=len(label_B),
        missing=missing,
        top1=right_BK[:, 0].double().mean().item(),
        top5=right_BK.any(1).double().mean().item(),
        mean_class=sum(known) / len(known),
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion_KK.tolist()),
        views=views,
    )
