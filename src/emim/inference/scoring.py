"""What a network says of many videos, one after the other.

Worker processes read (`emim.data.prefetch`), and the network runs on full batches of views, whichever videos they
belong to. Which views share a batch depends on the videos and their order, never on how fast they were read, so the
number of workers changes no bit of a score.

Shape suffixes: B views of a batch, V views of a video, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from emim.data.prefetch import read_views
from emim.data.preprocessing import Preprocessing, finish_views
from emim.environment import usable_cores
from emim.errors import CheckpointError, ConfigError, VideoError
from emim.precision import Precision

VIEWS_PER_PASS = 8
"""Views in one forward pass: enough to keep the processor busy, and memory stays bounded whatever the
number of clips and crops."""


def view_logits(model: nn.Module, views: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The logits of every view.

    Args:
        model: [B, 3, T, H, W] to logits [B, K].
        views: for each video its views_VCTHW; all of one clip size, V may differ.
        device: where the model is.

    Returns:
        For each video its logits_VK, in float32 on `device`.
    """
    counts = [len(views_VCTHW) for views_VCTHW in views]
    all_views = torch.cat(list(views))
    logits = torch.cat([model(part.to(device)).float() for part in torch.split(all_views, VIEWS_PER_PASS)])
    return list(torch.split(logits, counts))


def mean_score(logits: Sequence[Tensor]) -> Tensor:
    """Mean over each video's views of the softmax of its logits.

    Args:
        logits: for each video its logits_VK.

    Returns:
        score_BK in float32, rows sum to 1.
    """
    return torch.stack([logits_VK.softmax(-1).mean(0) for logits_VK in logits])


def score_views(model: nn.Module, views: Sequence[Tensor], device: torch.device) -> Tensor:
    """`mean_score` of `view_logits`: score_BK in float32, rows sum to 1."""
    return mean_score(view_logits(model, views, device))


_FEW_VIDEOS = 4
"""Fewer are read in this process: starting others would take about as long as they save."""
_MOST_WORKERS = 32
_VIEWS_PER_GPU_PASS = 32


def auto_workers(videos: int | None, device: torch.device) -> int:
    """Processes that read, where nothing was said.

    One for each core that this process may use, on a CPU, too, although the network then computes on the same cores:
    workers stop as soon as they are ahead, so they take what the network leaves them. None for fewer than four videos,
    and none where network and reading have a single core.

    Args:
        videos: how many there are; None where that is not known.
        device: where the network runs.
    """
    cores = usable_cores()
    if (videos is not None and videos < _FEW_VIDEOS) or (cores == 1 and device.type == "cpu"):
        return 0
    return min(cores, _MOST_WORKERS) if videos is None else min(cores, _MOST_WORKERS, videos)


def auto_batch_size(device: torch.device) -> int:
    """Views in one forward pass, where nothing was said."""
    return VIEWS_PER_PASS if device.type == "cpu" else _VIEWS_PER_GPU_PASS


def stream_scores(
    model: nn.Module,
    paths: Iterable[Path],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    workers: int,
    batch_size: int,
    precision: Precision = "32-true",
) -> Iterator[tuple[Path, Tensor | VideoError]]:
    """Scores of many videos, in their order, each as soon as its last batch is done and those before it are out.

    Memory does not grow with their number: what has been read and not handed out is at most what
    `emim.data.prefetch.AHEAD_PER_WORKER` says of the workers, and `VideoScorer` of the batches.

    Args:
        model: in evaluation mode, on `device`.
        paths: video files or folders of frames.
        preprocessing: the views of a video.
        device: where the network is.
        workers: processes that read; 0 reads in this one.
        batch_size: views in one forward pass, at least 1.
        precision: what the network computes in.

    Yields:
        (path, score_K): mean over the views of the softmax, float32 on the CPU; in place of the scores the error of a
        video that cannot be read.

    Raises:
        ProcessError: a worker has ended.
        CheckpointError: logits are NaN or infinite.
        ConfigError: a batch does not fit into the GPU's memory.
    """
    scorer = VideoScorer(model, preprocessing, device=device, batch_size=batch_size, precision=precision)
    for path, outcome in read_views(paths, preprocessing, workers=workers, pin_memory=device.type == "cuda"):
        scorer.add(path, outcome)
        yield from scorer.finished()
    yield from scorer.rest()


class VideoScorer:
    """Runs a network on batches of views that are full, whichever videos they belong to.

    It holds the pixels of less than one batch and one video, and at most `2 * batch_size` videos without a score: where
    broken videos make more, they do not wait for a full batch.

    Args: as of `stream_scores`.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        batch_size: int,
        precision: Precision = "32-true",
    ) -> None:
        self._model = model
        self._preprocessing = preprocessing
        self._device = device
        self._batch_size = batch_size
        self._precision: Precision = precision
        self._videos: deque[_Video] = deque()
        self._batch: list[tuple[_Video, Tensor]] = []
        self._passes = 0
        # A GPU computes while this process prepares the next batch: its results are asked for one batch later.
        self._lag = int(device.type == "cuda")

    @property
    def waiting(self) -> int:
        """Videos added and not handed out."""
        return len(self._videos)

    def add(self, path: Path, outcome: Tensor | VideoError) -> None:
        """The next video: its unfinished views_VCTHW (see `emim.data.preprocessing.raw_test_views`), or its error."""
        if isinstance(outcome, VideoError):
            self._videos.append(_Video(path, error=outcome))
            return
        video = _Video(path, missing=len(outcome))
        self._videos.append(video)
        views_VCTHW = outcome
        while len(views_VCTHW):
            room = self._batch_size - sum(len(part) for _, part in self._batch)
            self._batch.append((video, views_VCTHW[:room]))
            views_VCTHW = views_VCTHW[room:]
            if room <= len(self._batch[-1][1]):
                self._run()

    def finished(self) -> Iterator[tuple[Path, Tensor | VideoError]]:
        """The videos at the head that have their scores, or an error."""
        if len(self._videos) > 2 * self._batch_size:
            yield from self.rest()
        while self._videos and self._videos[0].is_done(self._passes - self._lag):
            yield self._result(self._videos.popleft())

    def rest(self) -> Iterator[tuple[Path, Tensor | VideoError]]:
        """All videos that are left; runs a batch that is not full."""
        if self._batch:
            self._run()
        while self._videos:
            yield self._result(self._videos.popleft())

    def _run(self) -> None:
        batch, self._batch = self._batch, []
        parts = [part_BCTHW.to(self._device, non_blocking=True) for _, part_BCTHW in batch]
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16-mixed"),
            ):
                views_BCTHW = torch.cat([finish_views(part_BCTHW, self._preprocessing) for part_BCTHW in parts])
                logits_BK = self._model(views_BCTHW).float().to("cpu", non_blocking=True)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a batch of {self._batch_size} views does not fit into the memory of {self._device}; "
                "give a smaller batch size"
            ) from error
        self._passes += 1
        arrived = torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None
        for (video, part_BCTHW), logits_VK in zip(batch, logits_BK.split([len(part) for part in parts]), strict=True):
            video.missing -= len(part_BCTHW)
            video.logits.append(logits_VK)
            video.last_pass, video.arrived = self._passes, arrived

    def _result(self, video: _Video) -> tuple[Path, Tensor | VideoError]:
        if video.error is not None:
            return video.path, video.error
        if video.arrived is not None:
            video.arrived.synchronize()
        logits_VK = torch.cat(video.logits)
        check_finite(logits_VK, video.path, self._precision)
        return video.path, mean_score([logits_VK])[0]


@dataclass
class _Video:
    """A video whose turn has not come.

    Attributes:
        path: where it is.
        error: why it cannot be read.
        missing: views without logits.
        logits: logits_VK of the others, in order.
        last_pass: number of the pass that gave the last of them.
        arrived: when they are in the CPU's memory; None where they are at once.
    """

    path: Path
    error: VideoError | None = None
    missing: int = 0
    logits: list[Tensor] = field(default_factory=list)
    last_pass: int = 0
    arrived: torch.cuda.Event | None = None

    def is_done(self, passes: int) -> bool:
        """Whether nothing is left to do for it after so many passes."""
        return self.error is not None or (self.missing == 0 and self.last_pass <= passes)


def check_finite(logits_VK: Tensor, path: object, precision: Precision) -> None:
    """Raise CheckpointError for logits that are NaN or infinite, or for scores made of such."""
    if not logits_VK.isfinite().all():
        raise CheckpointError(
            f"{path}: the network's logits for this video are NaN or infinite in {precision}; its weights are broken, "
            "or the precision is too low for them"
        )
