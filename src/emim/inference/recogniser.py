"""A trained network together with its class names and preprocessing: from a video to labels.

Shape suffixes: V views, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emim.data.preprocessing import Preprocessing, test_views
from emim.data.video import open_video
from emim.errors import ConfigError, VideoError
from emim.inference.scoring import auto_batch_size, auto_workers, check_finite, score_views, stream_scores
from emim.models import UniFormer
from emim.models.trained_model import ModelCard, load_model, resolve_checkpoint
from emim.precision import Precision


@dataclass(frozen=True)
class Prediction:
    """A class and its score; the scores of all classes sum to 1."""

    label: str
    score: float


class Recogniser:
    """Names the action in a video.

    >>> recogniser = Recogniser.load()  # the model that comes with the package
    >>> recogniser.predict("clip.mp4", topk=1)  # doctest: +SKIP
    [Prediction(label='left', score=0.97)]

    Args:
        model: the network.
        card: what it was trained for.
        device: where to run it; None takes a GPU if there is one.
        precision: what it computes in.
    """

    def __init__(
        self,
        model: UniFormer,
        card: ModelCard,
        device: str | torch.device | None = None,
        precision: Precision = "32-true",
    ) -> None:
        self.device = default_device() if device is None else torch.device(device)
        self.precision: Precision = precision
        self.model = model.to(self.device).eval()
        self.card = card
        self.classes = card.classes
        self.preprocessing = Preprocessing.from_dict(card.preprocessing)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "32-true",
    ) -> Recogniser:
        """From a trained model's file; None is the model that comes with the package.

        Raises:
            CheckpointError: the file cannot be read or was not written by a training run.
        """
        path = resolve_checkpoint(None if checkpoint is None else Path(checkpoint))
        return cls(*load_model(path), device=device, precision=precision)

    def predict(self, video: str | os.PathLike[str], topk: int = 5) -> list[Prediction]:
        """The best classes of a video file or folder of frames, best first.

        Args:
            video: the file or folder.
            topk: how many classes, at least 1; at most as many as there are.

        Raises:
            VideoError: the video cannot be read; names it and says why.
        """
        _check_topk(topk)
        with open_video(video) as reader:
            views_VCTHW = test_views(reader, self.preprocessing, 0, reader.num_frames)
        score_K = self.score(views_VCTHW)
        check_finite(score_K, video, self.precision)
        return self.best(score_K, topk)

    def predict_many(
        self,
        videos: Iterable[str | os.PathLike[str]],
        topk: int = 5,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[tuple[Path, list[Prediction] | VideoError]]:
        """The best classes of many videos, which are read ahead while the network runs.

        >>> for path, found in recogniser.predict_many(paths):  # doctest: +SKIP
        ...     print(path, found if isinstance(found, VideoError) else found[0].label)

        Memory does not grow with the number of videos. Ending the iteration early ends the worker processes. Where
        processes are not forked (Windows, macOS, Python from 3.14), a script needs the usual `__main__` guard.

        Args:
            videos: files and folders of frames; an iterator is taken from only as far as videos are read ahead.
            topk: how many classes, at least 1; at most as many as there are.
            workers: processes that read; 0 reads in this one; None: see `emim.inference.scoring.auto_workers`.
            batch_size: views in one forward pass; None: see `emim.inference.scoring.auto_batch_size`.

        Returns:
            An iterator over (path, predictions as of `predict`), in the order of `videos`; in place of the predictions
            the error of a video that cannot be read. Scores equal those of `predict` but for the rounding of another
            batch size.

        Raises:
            ConfigError: `workers` or `batch_size` is out of range. While iterating also: a batch does not fit into the
                GPU's memory.
            ProcessError: while iterating, a worker has ended.
            CheckpointError: while iterating, logits are NaN or infinite.
        """
        _check_topk(topk)
        if workers is None:
            workers = auto_workers(len(videos) if isinstance(videos, Sized) else None, self.device)
        if batch_size is None:
            batch_size = auto_batch_size(self.device)
        if workers < 0 or batch_size < 1:
            raise ConfigError(f"workers ({workers}) must be at least 0, and the batch size ({batch_size}) at least 1")
        scores = stream_scores(
            self.model,
            map(Path, videos),
            self.preprocessing,
            device=self.device,
            workers=workers,
            batch_size=batch_size,
            precision=self.precision,
        )
        return (
            (path, score_K if isinstance(score_K, VideoError) else self.best(score_K, topk)) for path, score_K in scores
        )

    def score(self, views_VCTHW: Tensor) -> Tensor:
        """Scores [K] of one video's preprocessed views."""
        in_bfloat16 = self.precision == "bf16-mixed"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16):
            return score_views(self.model, [views_VCTHW], self.device)[0].cpu()

    def best(self, score_K: Tensor, topk: int) -> list[Prediction]:
        """The best classes of one video's scores, best first; at most as many as there are."""
        best = score_K.topk(min(topk, len(self.classes)))
        return [
            Prediction(self.classes[index], score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _check_topk(topk: int) -> None:
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")


def default_device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
