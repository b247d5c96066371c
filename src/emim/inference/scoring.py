"""The one way from views to scores: forward passes, logits of views, scores of videos.

* `forward_views` is one forward pass: precision, no gradients, a readable error if memory is short.
* `view_logits` splits the views of some videos into passes; `mean_score` averages the views of each video.
* `VideoScorer` and `stream_scores` score many videos in full batches, whichever videos their views belong to.

Which views share a pass depends on the videos and their order, never on how fast they were read, so the number of
worker processes changes no bit of a score.

Shape suffixes: B views of a pass (of scores: videos), V views of a video, C channels, T frames, H height, W width,
K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from emim.data.prefetch import prefetch
from emim.data.preprocessing import Preprocessing, finish_views
from emim.environment import usable_cores
from emim.errors import CheckpointError, ConfigError, VideoError
from emim.inference.reading import VideoInfo, VideoSource, ViewReader, can_be_sent, source_name
from emim.precision import Precision

__all__ = [
    "ScoringOptions",
    "VideoScore",
    "VideoScorer",
    "auto_batch_size",
    "auto_workers",
    "check_finite",
    "forward_views",
    "mean_score",
    "score_views",
    "stream_scores",
    "view_logits",
]

VIEWS_PER_PASS = 8
"""Views in one forward pass on a CPU: enough to keep it busy, in bounded memory for any number of clips and crops."""
_VIEWS_PER_GPU_PASS = 32
_FEW_VIDEOS = 4
"""Fewer are read in this process: starting others would take about as long as they save."""
_MOST_WORKERS = 32


@dataclass(frozen=True)
class ScoringOptions:
    """Options for running a network over many videos. Only `preprocessing` changes scores by more than rounding.

    Attributes:
        batch_size: views in one forward pass; None for 8 on a CPU and 32 on a GPU.
        workers: processes that read videos; 0 reads in this process; None: see `auto_workers`.
        preprocessing: how views are made; None as the network was trained.
    """

    batch_size: int | None = None
    workers: int | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch size must be at least 1 view, got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers must be at least 0, got {self.workers}")

    def batch_size_on(self, device: torch.device) -> int:
        """Return the views in one forward pass on a device."""
        return auto_batch_size(device) if self.batch_size is None else self.batch_size

    def workers_for(self, videos: int | None, device: torch.device) -> int:
        """Return the number of processes that read `videos` videos (None: unknown)."""
        return auto_workers(videos, device) if self.workers is None else self.workers


def auto_workers(videos: int | None, device: torch.device) -> int:
    """Return the default number of worker processes that read videos.

    One for each core that this process may use, also where the network computes on the same cores: workers stop as
    soon as they are ahead, so they use only the time that the network leaves. None for fewer than four videos, and none
    where network and reading share a single core.

    Args:
        videos: how many there are; None if unknown.
        device: where the network runs.
    """
    cores = usable_cores()
    if (videos is not None and videos < _FEW_VIDEOS) or (cores == 1 and device.type == "cpu"):
        return 0
    return min(cores, _MOST_WORKERS) if videos is None else min(cores, _MOST_WORKERS, videos)


def auto_batch_size(device: torch.device) -> int:
    """Return the default number of views in one forward pass."""
    return VIEWS_PER_PASS if device.type == "cpu" else _VIEWS_PER_GPU_PASS


def forward_views(model: nn.Module, views_BCTHW: Tensor, precision: Precision | None = None) -> Tensor:
    """Run one forward pass.

    Args:
        model: [B, 3, T, H, W] to logits [B, K], on the device of the views.
        views_BCTHW: normalised views.
        precision: what the network computes in, without gradients; None keeps the autocast and gradient mode of the
            caller, as in training.

    Returns:
        logits_BK in float32, on the same device.

    Raises:
        ConfigError: the pass does not fit into the GPU's memory, unless `precision` is None.
    """
    if precision is None:
        return _float_logits(model, views_BCTHW)
    with _inference(views_BCTHW.device, precision, len(views_BCTHW)):
        return _float_logits(model, views_BCTHW)


def _float_logits(model: nn.Module, views_BCTHW: Tensor) -> Tensor:
    logits_BK: Tensor = model(views_BCTHW)
    return logits_BK.float()


@contextmanager
def _inference(device: torch.device, precision: Precision, views: int) -> Iterator[None]:
    """Compute in a precision without gradients, with a readable error if memory is short."""
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a pass of {views} views does not fit into the memory of {device}; give a smaller batch size"
        ) from error


def view_logits(
    model: nn.Module,
    views: Sequence[Tensor],
    device: torch.device,
    *,
    batch_size: int = VIEWS_PER_PASS,
    precision: Precision | None = None,
) -> list[Tensor]:
    """Return the logits of every view of some videos.

    Args:
        model: [B, 3, T, H, W] to logits [B, K], in evaluation mode.
        views: for each video its views_VCTHW; all of one clip size, V may differ.
        device: where the model is.
        batch_size: views in one forward pass; all passes but the last are full.
        precision: see `forward_views`.

    Returns:
        For each video its logits_VK, in float32 on `device`.
    """
    counts = [len(views_VCTHW) for views_VCTHW in views]
    passes = torch.split(torch.cat(list(views)), batch_size)
    logits = torch.cat([forward_views(model, views_BCTHW.to(device), precision) for views_BCTHW in passes])
    return list(torch.split(logits, counts))


def mean_score(logits: Sequence[Tensor]) -> Tensor:
    """Average the softmax of the logits over each video's views.

    Args:
        logits: for each video its logits_VK.

    Returns:
        score_BK in float32, rows sum to 1.
    """
    return torch.stack([logits_VK.softmax(-1).mean(0) for logits_VK in logits])


def score_views(
    model: nn.Module,
    views: Sequence[Tensor],
    device: torch.device,
    *,
    batch_size: int = VIEWS_PER_PASS,
    precision: Precision | None = None,
) -> Tensor:
    """`mean_score` of `view_logits`: score_BK in float32, rows sum to 1."""
    return mean_score(view_logits(model, views, device, batch_size=batch_size, precision=precision))


def check_finite(values: Tensor, name: object, precision: Precision) -> None:
    """Raise an error if logits, or scores made of them, are NaN or infinite.

    Args:
        values: logits or scores of one video, of any shape.
        name: name of the video.
        precision: what they were computed in.

    Raises:
        CheckpointError: some are not finite; names the video.
    """
    if not values.isfinite().all():
        raise CheckpointError(
            f"{name}: the network's logits for this video are NaN or infinite in {precision}; its weights are broken, "
            "or the precision is too low for them"
        )


@dataclass(frozen=True)
class VideoScore:
    """Scores of one video.

    Attributes:
        score_K: mean over the views of the softmax, float32 on the CPU; sums to 1.
        info: the video, its frames and crops.
    """

    score_K: Tensor
    info: VideoInfo


def stream_scores(
    model: nn.Module,
    videos: Iterable[VideoSource],
    reader: ViewReader,
    *,
    device: torch.device,
    workers: int,
    batch_size: int,
    precision: Precision = "32-true",
) -> Iterator[tuple[VideoSource, VideoScore | VideoError]]:
    """Score many videos in their order, each as soon as its last pass is done and those before it are out.

    Memory does not grow with the number of videos. At most `emim.data.prefetch.AHEAD_PER_WORKER` videos a worker are
    read ahead, and the passes hold what `VideoScorer` says.

    Args:
        model: in evaluation mode, on `device`.
        videos: paths, bytes, frames; see `emim.inference.reading.VideoSource`.
        reader: makes the views.
        device: where the network is.
        workers: processes that read; 0 reads in this one.
        batch_size: views in one forward pass, at least 1.
        precision: what the network computes in.

    Yields:
        (video, its score); in place of the score the error of a video that cannot be read.

    Raises:
        ProcessError: a worker has ended.
        CheckpointError: logits are NaN or infinite.
        ConfigError: a pass does not fit into the GPU's memory.
    """
    scorer = VideoScorer(model, reader.preprocessing, device=device, batch_size=batch_size, precision=precision)
    waiting: deque[tuple[VideoSource, VideoInfo | None]] = deque()

    def joined(
        scores: Iterable[tuple[Path, Tensor | VideoError]],
    ) -> Iterator[tuple[VideoSource, VideoScore | VideoError]]:
        for _, score_K in scores:
            video, info = waiting.popleft()
            if isinstance(score_K, VideoError):
                yield video, score_K
            else:
                assert info is not None
                yield video, VideoScore(score_K, info)

    read = prefetch(
        videos,
        reader,
        workers=workers,
        pin_memory=device.type == "cuda",
        in_worker=can_be_sent,
        name=source_name,
    )
    for video, outcome in read:
        if isinstance(outcome, VideoError):
            waiting.append((video, None))
            scorer.add(source_name(video), outcome)
        else:
            waiting.append((video, outcome.info))
            scorer.add(source_name(video), outcome.views_VCTHW)
        yield from joined(scorer.finished())
    yield from joined(scorer.rest())


class VideoScorer:
    """Runs a network on full batches of views, whichever videos the views belong to.

    It holds the pixels of less than one batch and one video, and at most `2 * batch_size` videos without a score: if
    broken videos make more, it runs a batch that is not full.

    Args:
        model: in evaluation mode, on `device`.
        preprocessing: of the views.
        device: where the network is.
        batch_size: views in one forward pass, at least 1.
        precision: what the network computes in.
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
        # A GPU computes while this process prepares the next batch: its results are fetched one batch later.
        self._lag = int(device.type == "cuda")

    @property
    def waiting(self) -> int:
        """Number of videos added and not handed out."""
        return len(self._videos)

    def add(self, path: Path, outcome: Tensor | VideoError) -> None:
        """Add the next video.

        Args:
            path: its name.
            outcome: its views_VCTHW, uint8, as of `emim.data.preprocessing.raw_test_views`, or its error.
        """
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
        """Yield the first videos, as far as they have scores or an error."""
        if len(self._videos) > 2 * self._batch_size:
            yield from self.rest()
        while self._videos and self._videos[0].is_done(self._passes - self._lag):
            yield self._result(self._videos.popleft())

    def rest(self) -> Iterator[tuple[Path, Tensor | VideoError]]:
        """Yield all videos that are left; the last batch may not be full."""
        if self._batch:
            self._run()
        while self._videos:
            yield self._result(self._videos.popleft())

    def _run(self) -> None:
        batch, self._batch = self._batch, []
        parts = [part_BCTHW.to(self._device, non_blocking=True) for _, part_BCTHW in batch]
        with _inference(self._device, self._precision, self._batch_size):
            views_BCTHW = torch.cat([finish_views(part_BCTHW, self._preprocessing) for part_BCTHW in parts])
            logits_BK = forward_views(self._model, views_BCTHW, self._precision).to("cpu", non_blocking=True)
        self._passes += 1
        arrived = torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None
        for (video, part_BCTHW), logits_VK in zip(
            batch, torch.split(logits_BK, [len(part) for part in parts]), strict=True
        ):
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
    """A video that has been added and not handed out.

    Attributes:
        path: its name.
        error: why it cannot be read.
        missing: number of views without logits.
        logits: logits_VK of the other views, in order.
        last_pass: number of the pass that gave the last of them.
        arrived: event of their arrival in the CPU's memory; None on a CPU.
    """

    path: Path
    error: VideoError | None = None
    missing: int = 0
    logits: list[Tensor] = field(default_factory=list)
    last_pass: int = 0
    arrived: torch.cuda.Event | None = None

    def is_done(self, passes: int) -> bool:
        """True if the video has an error or all its logits after so many passes."""
        return self.error is not None or (self.missing == 0 and self.last_pass <= passes)
