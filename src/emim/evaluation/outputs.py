"""Score the clips of a labelled list, as they are or under ablations, optionally split across processes.

Whole batches are shared out: process r of R takes batches r, r + R, ... of the list. So a clip is in the same
batch, beside the same clips, whatever the number of processes; no clip is repeated to make the shares equal; and
the outputs that the processes collect round by round are in the order of the list.

Shape suffixes: S clips that could be read, B those of one batch, V views of a video, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from emim._moved import renamed
from emim.data.dataset import TestClips, init_worker
from emim.data.loader import ErrorsAsItems
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.distributed import SINGLE_PROCESS, ProcessGroup
from emim.errors import DataError, EmimError
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions, check_finite, mean_score, view_logits
from emim.models.trained_model import ModelCard
from emim.precision import Precision

__all__ = ["Ablation", "ClipOutputs", "score_ablations", "score_clips"]

_UNCHANGED = "unchanged"


def _same_views(views_VCTHW: Tensor, position: int) -> Tensor:
    del position
    return views_VCTHW


def _same_network(model: nn.Module) -> AbstractContextManager[None]:
    del model
    return nullcontext()


@dataclass(frozen=True)
class Ablation:
    """A change of the clips, of the network or of both; by default no change.

    Attributes:
        change_views: from the views_VCTHW of a clip and its position in the list to views of the same shape. All
            ablations share the views, so it must not change them in place.
        change_network: a context in which the network is changed.
    """

    change_views: Callable[[Tensor, int], Tensor] = _same_views
    change_network: Callable[[nn.Module], AbstractContextManager[None]] = _same_network


@dataclass(frozen=True)
class ClipOutputs:
    """Scores of the clips that could be read, in list order, and the clips that could not.

    Attributes:
        index: position in the list of each clip that was read, length S.
        label_S: class index.
        score_SK: mean over the views of the softmax of the logits, float32.
        logits_SVK: logits of every view, float32; None unless they were to be kept.
        missing: clips that could not be read, with the reason.
    """

    index: tuple[int, ...]
    label_S: Tensor
    score_SK: Tensor
    logits_SVK: Tensor | None
    missing: tuple[tuple[Path, str], ...]


def score_clips(
    recogniser: Recogniser,
    clip_list: ClipList,
    options: ScoringOptions | None = None,
    *,
    keep_logits: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> ClipOutputs | None:
    """Run a network over the test views of every clip.

    Arguments, errors and reproducibility: see `score_ablations`. All processes but the first return None.
    """
    found = score_ablations(
        recogniser,
        clip_list,
        {_UNCHANGED: Ablation()},
        options,
        keep_logits=keep_logits,
        group=group,
        progress=progress,
    )
    return None if found is None else found[_UNCHANGED]


def score_ablations(
    recogniser: Recogniser,
    clip_list: ClipList,
    ablations: Mapping[str, Ablation],
    options: ScoringOptions | None = None,
    *,
    keep_logits: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ClipOutputs] | None:
    """Run a network over the test views of every clip under each ablation. A video is read once.

    On the CPU, logits are the same to the bit whatever the number of workers, and of processes that have as many
    threads. Another batch size changes them by rounding, because matrix products then add in another order. A clip
    whose two best classes are that close could in principle change sides; the scores are not rounded to hide it.

    Args:
        recogniser: network, device, precision and preprocessing.
        clip_list: the clips, with the classes of the network.
        ablations: by name, at least one.
        options: views in one forward pass, worker processes of this process, and other views than the network was
            trained with.
        keep_logits: keep the logits of every view, besides the scores.
        group: the processes that share the clips out; all of them call this with the same arguments.
        progress: called in the first process with (videos done by all, videos in all).

    Returns:
        The outputs under each ablation by its name in the first process, None in the others.

    Raises:
        DataError: there are no clips, or none could be read.
        CheckpointError: the network's logits are not finite; names the clip.
        ConfigError: a pass does not fit into the GPU's memory.
        ProcessError: another process of the group has ended.
    """
    if len(clip_list) == 0:
        raise DataError(f"{clip_list.source}: no clips to test")
    options = options or ScoringOptions()
    preprocessing = options.preprocessing or recogniser.preprocessing
    batch_size = options.batch_size_on(recogniser.device)
    batches = _batches(len(clip_list), batch_size, preprocessing.num_views)
    own = batches[group.rank :: group.world]
    loaded = _load(clip_list, preprocessing, own, options.workers_for(sum(map(len, own)), recogniser.device))
    collected: list[dict[str, _BatchOutputs]] = []
    done = 0
    for _ in range(0, len(batches), group.world):
        # Round by round, so that a process which has died is noticed within a batch.
        batch = next(loaded, [])
        outputs = {
            name: _run(recogniser, batch, clip_list, batch_size, keep_logits, ablation)
            for name, ablation in ablations.items()
        }
        gathered = group.gather(outputs)
        if gathered is None:
            continue
        collected += gathered
        done += sum(part.clips for part in (next(iter(parts.values())) for parts in gathered))
        if progress is not None:
            progress(done, len(clip_list))
    if group.rank != 0:
        return None
    return {name: _joined([parts[name] for parts in collected], clip_list) for name in ablations}


@dataclass(frozen=True)
class _BatchOutputs:
    """`ClipOutputs` of one batch, which may be empty."""

    index: tuple[int, ...] = ()
    label_B: Tensor | None = None
    score_BK: Tensor | None = None
    logits_BVK: Tensor | None = None
    missing: tuple[tuple[Path, str], ...] = ()

    @property
    def clips(self) -> int:
        """Number of clips, including those that could not be read."""
        return len(self.index) + len(self.missing)


def _batches(num_clips: int, batch_size: int, num_views: int) -> list[range]:
    """Positions of the clips of each batch: the fewest clips whose views fill whole passes."""
    clips = batch_size // math.gcd(batch_size, num_views)
    return [range(start, min(start + clips, num_clips)) for start in range(0, num_clips, clips)]


def _load(
    clip_list: ClipList, preprocessing: Preprocessing, batches: Sequence[range], workers: int
) -> Iterator[list[tuple[int, Any]]]:
    """Yield batches as pairs of position and item; the item of a broken clip is its error."""
    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(TestClips(clip_list, preprocessing)),
        sampler=[position for batch in batches for position in batch],
        batch_size=None,  # one by one: a worker holds two clips, not two batches
        num_workers=workers,
        worker_init_fn=init_worker,
        collate_fn=_unchanged,
    )
    items = iter(loader)
    for batch in batches:
        yield [(position, next(items)) for position in batch]


def _unchanged(item: Any) -> Any:
    return item


def _run(
    recogniser: Recogniser,
    batch: list[tuple[int, Any]],
    clip_list: ClipList,
    batch_size: int,
    keep_logits: bool,
    ablation: Ablation,
) -> _BatchOutputs:
    """Score one batch under one ablation."""
    missing = tuple((clip_list.entries[at].path, str(item)) for at, item in batch if isinstance(item, EmimError))
    read = [(at, item) for at, item in batch if not isinstance(item, EmimError)]
    if not read:
        return _BatchOutputs(missing=missing)
    views = [ablation.change_views(item["views"], at) for at, item in read]
    with ablation.change_network(recogniser.model):
        logits = view_logits(
            recogniser.model, views, recogniser.device, batch_size=batch_size, precision=recogniser.precision
        )
        score_BK = mean_score(logits).cpu()
    logits_BVK = torch.stack(logits).cpu()
    for (at, _), logits_VK in zip(read, logits_BVK, strict=True):
        check_finite(logits_VK, clip_list.entries[at].path, recogniser.precision)
    return _BatchOutputs(
        index=tuple(at for at, _ in read),
        label_B=torch.tensor([item["label"] for _, item in read]),
        score_BK=score_BK,
        logits_BVK=logits_BVK if keep_logits else None,
        missing=missing,
    )


def _joined(parts: Sequence[_BatchOutputs], clip_list: ClipList) -> ClipOutputs:
    missing = tuple(pair for part in parts for pair in part.missing)
    scores = [part.score_BK for part in parts if part.score_BK is not None]
    if not scores:
        raise DataError(f"{clip_list.source}: none of its {len(clip_list)} clips could be read; {missing[0][1]}")
    logits = [part.logits_BVK for part in parts if part.logits_BVK is not None]
    return ClipOutputs(
        index=tuple(at for part in parts for at in part.index),
        label_S=torch.cat([part.label_B for part in parts if part.label_B is not None]),
        score_SK=torch.cat(scores),
        logits_SVK=torch.cat(logits) if logits else None,
        missing=missing,
    )


def recogniser_of(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
) -> Recogniser:
    """Make a `Recogniser` of any network, with the classes of a list of clips."""
    card = ModelCard(type(model).__name__, clip_list.classes, preprocessing.to_dict())
    return Recogniser(model, card, device, precision)


def _outputs_under(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    conditions: Sequence[Ablation],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "32-true",
    **others: Any,
) -> tuple[ClipOutputs, ...] | None:
    """`outputs_under` of version 0.1, for one release."""
    recogniser = recogniser_of(model, clip_list, preprocessing, device, precision)
    ablations = {str(number): condition for number, condition in enumerate(conditions)}
    found = score_ablations(recogniser, clip_list, ablations, ScoringOptions(batch_size, workers), **others)
    return None if found is None else tuple(found.values())


def _clip_outputs(
    model: nn.Module, clip_list: ClipList, preprocessing: Preprocessing, **options: Any
) -> ClipOutputs | None:
    """`clip_outputs` of version 0.1, for one release."""
    found = _outputs_under(model, clip_list, preprocessing, (Ablation(),), **options)
    return None if found is None else found[0]


__getattr__ = renamed(
    __name__,
    {
        "Condition": ("Ablation", Ablation),
        "clip_outputs": ("score_clips, which takes a Recogniser", _clip_outputs),
        "outputs_under": ("score_ablations, which takes a Recogniser", _outputs_under),
    },
)
