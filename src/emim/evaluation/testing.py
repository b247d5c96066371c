"""Test a network on labelled clips with fixed views, and count exactly what was tested.

Shape suffixes: B videos, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emim.data.manifest import ClipList, format_moment
from emim.data.preprocessing import Preprocessing
from emim.errors import ConfigError
from emim.evaluation.outputs import ClipOutputs, clip_outputs
from emim.precision import Precision
from emim.utils import atomic_write

_Z_95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


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
        top1_interval: its 95 % Wilson interval.
        top5: share whose label is among the five best (of fewer than six classes: always 1).
        mean_class: mean over the classes that have clips of their top-1.
        per_class: top-1 of each class, in class order.
        confusion: rows are labels, columns the best classes, in counts.
        preprocessing: the views of each video.
        precision: what the network computed in.
    """

    __test__ = False  # not a test case, whatever its name looks like to pytest

    clips: int
    missing: tuple[tuple[Path, str], ...]
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    mean_class: float
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    preprocessing: Preprocessing
    precision: Precision

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "clips": self.clips,
            "missing": [{"path": str(path), "reason": reason} for path, reason in self.missing],
            "top1": self.top1,
            "top1_95_wilson": list(self.top1_interval),
            "top5": self.top5,
            "mean_class": self.mean_class,
            "views": describe_views(self.preprocessing),
            "precision": self.precision,
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
    precision: Precision = "32-true",
    progress: Callable[[int, int], None] | None = None,
) -> TestResult:
    """Top-1, top-5, mean-class accuracy and confusion on fixed views, in this process alone.

    A clip that cannot be read is listed as missing and never replaced by another. Arguments, errors and what the
    result depends on: see `emim.evaluation.outputs.outputs_under`.
    """
    outputs = clip_outputs(
        model,
        clip_list,
        preprocessing,
        device=device,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        progress=progress,
    )
    assert outputs is not None  # this process is the first one
    return summarise(
        outputs.score_NK,
        outputs.label_N,
        clip_list.classes,
        missing=outputs.missing,
        preprocessing=preprocessing,
        precision=precision,
    )


def summarise(
    score_BK: Tensor,
    label_B: Tensor,
    classes: tuple[str, ...],
    *,
    preprocessing: Preprocessing,
    precision: Precision = "32-true",
    missing: tuple[tuple[Path, str], ...] = (),
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
        top1=sum(hits) / len(label_B),
        top1_interval=wilson_interval(sum(hits), len(label_B)),
        top5=right_BK.any(1).double().mean().item(),
        mean_class=sum(known) / len(known),
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion_KK.tolist()),
        preprocessing=preprocessing,
        precision=precision,
    )


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, within [0, 1].

    It takes the clips for independent draws. Clips of one person or one film are alike, so the true uncertainty
    of such a test set is larger.

    Args:
        hits: successes, 0 to `count`.
        count: trials, at least 1.
    """
    share, square = hits / count, _Z_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def describe_views(preprocessing: Preprocessing) -> dict[str, Any]:
    """The views of a video, JSON-ready: what two tests must share for their figures to be comparable."""
    return {
        "clips": preprocessing.clips,
        "crops": preprocessing.crops_per_clip,
        "per_video": preprocessing.num_views,
        "num_frames": preprocessing.num_frames,
        "sampling": preprocessing.sampling,
        "stride": preprocessing.stride if preprocessing.sampling == "dense" else None,
        "size": preprocessing.size,
        "fit": preprocessing.fit,
    }


_METADATA_KEY = "emim"


def write_logits(path: Path, outputs: ClipOutputs, clip_list: ClipList, about: Mapping[str, Any]) -> None:
    """Write the logits of the clips that could be read, before the softmax; whole or not at all.

    Tensors: `logits` [N, V, K] float32 and `labels` [N] int64. The metadata holds JSON under the key "emim": `about`,
    `classes` (names by index) and `clips` (path, start and end of each of the N).

    Args:
        path: the file to write.
        outputs: with logits kept.
        clip_list: the list that they are the outputs of.
        about: JSON-ready facts of the test: views, checkpoint, precision.

    Raises:
        ConfigError: the file cannot be written.
    """
    if outputs.logits_NVK is None:
        raise ValueError("the outputs hold no logits; run with keep_logits=True")
    entries = [clip_list.entries[at] for at in outputs.index]
    clips = [
        {
            "path": str(entry.path),
            "start": format_moment(entry.start, entry.unit),
            "end": format_moment(entry.end, entry.unit),
        }
        for entry in entries
    ]
    metadata = json.dumps({**about, "classes": list(clip_list.classes), "clips": clips})
    tensors = {"logits": outputs.logits_NVK.contiguous(), "labels": outputs.label_N}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: metadata})
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
