"""A trained network together with its class names and preprocessing: from a video to labels.

Shape suffixes: V views, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emim.data.preprocessing import Preprocessing, test_views
from emim.data.video import open_video
from emim.evaluation.views import score_views
from emim.models import UniFormer
from emim.models.artifact import ModelCard, load_model
from emim.models.bundled import resolve_checkpoint


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
    """

    def __init__(self, model: UniFormer, card: ModelCard, device: str | torch.device | None = None) -> None:
        self.device = default_device() if device is None else torch.device(device)
        self.model = model.to(self.device).eval()
        self.card = card
        self.classes = card.classes
        self.preprocessing = Preprocessing.from_dict(card.preprocessing)

    @classmethod
    def load(
        cls, checkpoint: str | os.PathLike[str] | None = None, device: str | torch.device | None = None
    ) -> Recogniser:
        """From a trained model's file; None is the model that comes with the package.

        Raises:
            CheckpointError: the file cannot be read or was not written by a training run.
        """
        path = resolve_checkpoint(None if checkpoint is None else Path(checkpoint))
        return cls(*load_model(path), device=device)

    def predict(self, video: str | os.PathLike[str], topk: int = 5) -> list[Prediction]:
        """The best classes of a video file or folder of frames, best first.

        Args:
            video: the file or folder.
            topk: how many classes, at least 1; at most as many as there are.

        Raises:
            VideoError: the video cannot be read; names it and says why.
        """
        if topk < 1:
            raise ValueError(f"topk must be at least 1, got {topk}")
        with open_video(video) as reader:
            views_VCTHW = test_views(reader, self.preprocessing, 0, reader.num_frames)
        score_K = self.score(views_VCTHW)
        best = score_K.topk(min(topk, len(self.classes)))
        return [
            Prediction(self.classes[index], score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def score(self, views_VCTHW: Tensor) -> Tensor:
        """Scores [K] of one video's preprocessed views."""
        with torch.inference_mode():
            return score_views(self.model, [views_VCTHW], self.device)[0].cpu()


def default_device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
