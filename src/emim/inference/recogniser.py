"""A trained network with its class names and preprocessing: from videos to labels.

Shape suffixes: V views, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from emim._moved import renamed
from emim.data.preprocessing import Preprocessing, finish_views
from emim.environment import resolve_device
from emim.errors import VideoError
from emim.inference.reading import ReadVideo, VideoInfo, VideoSource, View, ViewReader, refuse_fps_of_file
from emim.inference.scoring import (
    ScoringOptions,
    VideoScore,
    check_finite,
    mean_score,
    stream_scores,
    view_logits,
)
from emim.models.trained_model import ModelCard, load_model, resolve_checkpoint
from emim.precision import Precision, resolve_precision

__all__ = ["Prediction", "Predictions", "Recogniser"]

_BAR_WIDTH = 24


@dataclass(frozen=True)
class Prediction:
    """A class and its score; the scores of all classes sum to 1."""

    label: str
    score: float


@dataclass(frozen=True, repr=False)
class Predictions(Sequence[Prediction]):
    """The best classes of one video, best first, and the frames and crops that they come from.

    It is a sequence of `Prediction`: `found[0].label` is the best class.

    Attributes:
        predictions: best first.
        info: the video: path, duration, frame rate, and the frames and crops of each view.
    """

    predictions: tuple[Prediction, ...]
    info: VideoInfo

    @property
    def path(self) -> Path:
        """The file or folder; a name in angle brackets for a video in memory."""
        return self.info.path

    @property
    def duration(self) -> float:
        """Seconds of the whole video."""
        return self.info.duration

    @property
    def fps(self) -> float:
        """Average frames per second."""
        return self.info.fps

    @property
    def views(self) -> tuple[View, ...]:
        """The frames and the crop of each view; the scores are the mean over the views."""
        return self.info.views

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...

    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        return f"Predictions({list(self.predictions)}, path={str(self.path)!r})"

    def __str__(self) -> str:
        """A line for each class, with a bar as long as its score."""
        width = max(len(item.label) for item in self.predictions)
        lines = (
            f"  {item.label:<{width}}  {item.score:6.1%}  {'█' * round(item.score * _BAR_WIDTH)}".rstrip()
            for item in self.predictions
        )
        return "\n".join((str(self.path), *lines))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; scores are rounded to six decimals."""
        listed = [{"label": item.label, "score": round(item.score, 6)} for item in self.predictions]
        return {**self.info.to_dict(), "predictions": listed}


class Recogniser:
    """Recognises the action in videos.

    >>> recogniser = Recogniser.load()  # the model that comes with the package
    >>> found = recogniser.predict("clip.mp4", topk=1)  # doctest: +SKIP
    >>> found[0]  # doctest: +SKIP
    Prediction(label='left', score=0.97)

    Args:
        model: the network: normalised clips [B, 3, T, H, W] to logits [B, K].
        card: class names and preprocessing.
        device: "cpu", "cuda" or "cuda:N"; None for a GPU if there is one, else the CPU.
        precision: "32-true" (float32), "bf16-mixed" (bfloat16 by autocast), or "auto" for bfloat16 if the device
            computes in it natively.

    Attributes:
        classes: class names by index.
        preprocessing: how views are made of a video.

    Raises:
        ConfigError: there is no such device.
    """

    def __init__(
        self,
        model: nn.Module,
        card: ModelCard,
        device: str | torch.device | None = None,
        precision: Precision | Literal["auto"] = "32-true",
    ) -> None:
        self.device = resolve_device(device)
        self.precision: Precision = resolve_precision(precision, self.device.type)
        self.model = model.to(self.device).eval()
        self.card = card
        self.classes = card.classes
        self.preprocessing = Preprocessing.from_dict(card.preprocessing)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        precision: Precision | Literal["auto"] = "32-true",
    ) -> Recogniser:
        """Load a trained model.

        Args:
            checkpoint: path of the model.safetensors of a run; None for the model that comes with the package.
            device: see `Recogniser`.
            precision: see `Recogniser`.

        Raises:
            CheckpointError: the file cannot be read or was not written by a training run.
            ConfigError: there is no such device.
        """
        path = resolve_checkpoint(None if checkpoint is None else Path(checkpoint))
        return cls(*load_model(path), device=device, precision=precision)

    def predict(
        self,
        video: VideoSource,
        topk: int = 5,
        *,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Predictions:
        """Recognise the action in one video.

        >>> recogniser.predict("clip.mp4", start=2, end=5)  # doctest: +SKIP
        >>> recogniser.predict(Path("clip.mp4").read_bytes())  # doctest: +SKIP
        >>> recogniser.predict(frames_THWC, fps=30)  # doctest: +SKIP

        Args:
            video: path of a video file or folder of frames; bytes of a video file; frames [T, H, W, 3], uint8 RGB, as
                an array, a tensor or an iterator of frames [H, W, 3]; or an open `VideoReader`. An iterator is taken
                up to `end`; its frames are kept at the network's input size, and more than 1 GiB of them is an error.
            topk: number of classes, at least 1; at most as many as there are.
            fps: frames per second of an array, tensor or iterator of frames.
            start: seconds at which to begin; None for the start of the video.
            end: seconds before which to end; None for the end of the video.

        Returns:
            The best classes, best first, and the frames and crops that were looked at.

        Raises:
            VideoError: the video cannot be read, or has no frames from `start` to `end`; names it and says why.
            ConfigError: frames without `fps`, or `fps` for a file.
            CheckpointError: logits are NaN or infinite.
        """
        _check_topk(topk)
        read = self.read(video, fps=fps, start=start, end=end)
        views_VCTHW = finish_views(read.views_VCTHW, self.preprocessing)
        return Predictions(tuple(self.best(self.score(views_VCTHW, read.info.path), topk)), read.info)

    @overload
    def predict_many(
        self,
        videos: Iterable[str | os.PathLike[str]],
        topk: int = 5,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Iterator[tuple[Path, Predictions | VideoError]]: ...

    @overload
    def predict_many(
        self,
        videos: Iterable[VideoSource],
        topk: int = 5,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Iterator[tuple[VideoSource, Predictions | VideoError]]: ...

    def predict_many(
        self,
        videos: Iterable[Any],
        topk: int = 5,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Iterator[tuple[Any, Predictions | VideoError]]:
        """Recognise the actions in many videos, which are read ahead while the network runs.

        >>> for path, found in recogniser.predict_many(paths):  # doctest: +SKIP
        ...     print(path, found if isinstance(found, VideoError) else found[0].label)

        Memory does not grow with the number of videos. Ending the iteration early ends the worker processes. Where
        processes are not forked (Windows, macOS, Python from 3.14), a script needs the usual `__main__` guard.

        Args:
            videos: as for `predict`; an iterator of videos is taken from only as far as videos are read ahead. Frames
                in memory are read in this process, paths and bytes by the workers.
            topk: number of classes, at least 1; at most as many as there are.
            workers: processes that read; 0 reads in this one; None: see `emim.inference.scoring.auto_workers`.
            batch_size: views in one forward pass; None for 8 on a CPU and 32 on a GPU.
            fps: frames per second of all frames in memory.
            start: seconds at which to begin in each video.
            end: seconds before which to end in each video.

        Returns:
            An iterator over (video, predictions as of `predict`), in the order of `videos`; paths come as `Path`. In
            place of the predictions the error of a video that cannot be read. Scores equal those of `predict` but for
            the rounding of another batch size.

        Raises:
            ConfigError: `workers` or `batch_size` is out of range. While iterating also: a batch does not fit into the
                GPU's memory, or frames without `fps`.
            ProcessError: while iterating, a worker has ended.
            CheckpointError: while iterating, logits are NaN or infinite.
        """
        _check_topk(topk)
        options = ScoringOptions(batch_size, workers)
        scores = stream_scores(
            self.model,
            (Path(video) if isinstance(video, str | os.PathLike) else video for video in videos),
            ViewReader(self.preprocessing, fps, start, end),
            device=self.device,
            workers=options.workers_for(len(videos) if isinstance(videos, Sized) else None, self.device),
            batch_size=options.batch_size_on(self.device),
            precision=self.precision,
        )
        return ((video, self._predictions(found, topk)) for video, found in scores)

    def _predictions(self, found: VideoScore | VideoError, topk: int) -> Predictions | VideoError:
        if isinstance(found, VideoError):
            return found
        return Predictions(tuple(self.best(found.score_K, topk)), found.info)

    def read(
        self,
        video: VideoSource,
        *,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> ReadVideo:
        """Read the views of one video; arguments and errors as of `predict`.

        Returns:
            views_VCTHW in uint8, for `emim.data.preprocessing.finish_views`, and the record of their frames and crops.
        """
        refuse_fps_of_file(video, fps)
        return ViewReader(self.preprocessing, fps, start, end)(video)

    def logits(self, views_VCTHW: Tensor, name: object = "the video") -> Tensor:
        """Return the logits of one video's preprocessed views.

        Args:
            views_VCTHW: normalised views, as of `emim.data.preprocessing.test_views`.
            name: name of the video in the error.

        Returns:
            logits_VK in float32 on the CPU.

        Raises:
            CheckpointError: they are NaN or infinite.
            ConfigError: a pass does not fit into the GPU's memory.
        """
        (logits_VK,) = view_logits(
            self.model,
            [views_VCTHW],
            self.device,
            batch_size=ScoringOptions().batch_size_on(self.device),
            precision=self.precision,
        )
        logits_VK = logits_VK.cpu()
        check_finite(logits_VK, name, self.precision)
        return logits_VK

    def score(self, views_VCTHW: Tensor, name: object = "the video") -> Tensor:
        """Return the scores [K] of one video's preprocessed views: the mean of their softmax; see `logits`."""
        return mean_score([self.logits(views_VCTHW, name)])[0]

    def best(self, score_K: Tensor, topk: int) -> list[Prediction]:
        """Return the best classes of one video's scores, best first; at most as many as there are."""
        best = score_K.topk(min(topk, len(self.classes)))
        return [
            Prediction(self.classes[index], score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _check_topk(topk: int) -> None:
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")


__getattr__ = renamed(__name__, {"default_device": ("emim.environment.resolve_device", lambda: resolve_device(None))})
