"""Test a network on labelled clips with fixed views: accuracies, confusion, and the clips that could not be read.

Shape suffixes: S clips that could be read, V views of a video, K classes.
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

from emim._moved import renamed
from emim.data.manifest import ClipList, format_moment
from emim.data.preprocessing import Preprocessing
from emim.errors import ConfigError
from emim.evaluation.outputs import ClipOutputs, recogniser_of, score_clips
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions
from emim.precision import Precision
from emim.utils import atomic_write

__all__ = [
    "ClassResult",
    "TestResult",
    "describe_views",
    "evaluate",
    "summarise",
    "wilson_interval",
    "write_logits",
]

_Z_95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True)
class ClassResult:
    """Top-1 accuracy on the clips of one class; None if no clip of it was tested."""

    name: str
    clips: int
    top1: float | None


@dataclass(frozen=True)
class TestResult:
    """Accuracies of a test, as shares in [0, 1] of the clips that could be read.

    Attributes:
        clips: number of clips tested.
        missing: clips that could not be read, with the reason; they count in no accuracy.
        top1: top-1 accuracy.
        top1_interval: its 95 % Wilson interval.
        top5: top-5 accuracy (with fewer than six classes always 1).
        mean_class: mean of the top-1 accuracies of the classes that have clips.
        per_class: top-1 accuracy of each class, in class order.
        confusion: counts of clips; rows are labels, columns predicted classes.
        preprocessing: the views of each video.
        precision: number format of the network.
    """

    __test__ = False  # not a test case, despite the name

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
        """Return plain values for JSON."""
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


def evaluate(
    recogniser: Recogniser,
    clip_list: ClipList,
    options: ScoringOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TestResult:
    """Measure top-1, top-5 and mean-class accuracy and confusion on fixed views, in this process.

    >>> result = evaluate(recogniser, load_clips("mine/test.csv", split=None))  # doctest: +SKIP
    >>> print(f"{result.top1:.1%} of {result.clips} clips")  # doctest: +SKIP

    A clip that cannot be read is listed as missing and never replaced by another. Arguments, errors and
    reproducibility: see `emim.evaluation.outputs.score_ablations`.
    """
    options = options or ScoringOptions()
    outputs = score_clips(recogniser, clip_list, options, progress=progress)
    assert outputs is not None  # this process is the first one
    return summarise(
        outputs.score_SK,
        outputs.label_S,
        clip_list.classes,
        missing=outputs.missing,
        preprocessing=options.preprocessing or recogniser.preprocessing,
        precision=recogniser.precision,
    )


def summarise(
    score_SK: Tensor,
    label_S: Tensor,
    classes: tuple[str, ...],
    *,
    preprocessing: Preprocessing,
    precision: Precision = "32-true",
    missing: tuple[tuple[Path, str], ...] = (),
) -> TestResult:
    """Compute accuracies from scores and labels; see `TestResult`."""
    best_SK = score_SK.topk(min(5, score_SK.shape[1]), dim=-1).indices
    right_SK = best_SK == label_S[:, None]
    confusion_KK = multiclass_confusion_matrix(best_SK[:, 0], label_S, num_classes=len(classes))
    counts = confusion_KK.sum(1).tolist()
    hits = confusion_KK.diagonal().tolist()
    per_class = tuple(
        ClassResult(name, count, hit / count if count else None)
        for name, count, hit in zip(classes, counts, hits, strict=True)
    )
    known = [result.top1 for result in per_class if result.top1 is not None]
    return TestResult(
        clips=len(label_S),
        missing=missing,
        top1=sum(hits) / len(label_S),
        top1_interval=wilson_interval(sum(hits), len(label_S)),
        top5=right_SK.any(1).double().mean().item(),
        mean_class=sum(known) / len(known),
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion_KK.tolist()),
        preprocessing=preprocessing,
        precision=precision,
    )


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, within [0, 1].

    It assumes independent clips. Clips of one person or one film are alike, so the true uncertainty of such a test set
    is larger.

    Args:
        hits: successes, 0 to `count`.
        count: trials, at least 1.
    """
    share, square = hits / count, _Z_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def describe_views(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the views of a video as plain values for JSON; figures are comparable if these are the same."""
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
    """Write the logits of the clips that could be read, before the softmax, as a safetensors file.

    Tensors: `logits` [S, V, K] float32 and `labels` [S] int64. The metadata holds JSON under the key "emim": `about`,
    `classes` (names by index) and `clips` (path, start and end of each of the S).

    Args:
        path: the file to write; it appears whole or not at all.
        outputs: with logits kept.
        clip_list: the list that was scored.
        about: views, checkpoint and precision of the test, as plain values for JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    if outputs.logits_SVK is None:
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
    tensors = {"logits": outputs.logits_SVK.contiguous(), "labels": outputs.label_S}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: metadata})
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _test_model(
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
    """`test_model` of version 0.1, for one release."""
    recogniser = recogniser_of(model, clip_list, preprocessing, device, precision)
    return evaluate(recogniser, clip_list, ScoringOptions(batch_size, workers), progress=progress)


__getattr__ = renamed(__name__, {"test_model": ("evaluate, which takes a Recogniser", _test_model)})
