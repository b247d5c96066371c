"""What a network says of every clip of a list, by one process or several that share the clips out.

Clips or network may be changed on the way, in several conditions that share one reading of the videos.

Whole batches are shared out: process r of R takes batches r, r + R, ... of the list. So a clip is in the same
batch, beside the same clips, whatever the number of processes; no clip is repeated to make the shares equal; and
what the processes collect round by round is in the order of the list.

Shape suffixes: N clips that could be read, B those of one batch, V views of a video, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from emim.data.dataset import TestClips, init_worker
from emim.data.loader import ErrorsAsItems
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.distributed import SINGLE_PROCESS, ProcessGroup
from emim.errors import CheckpointError, DataError, EmimError
from emim.inference.scoring import mean_score, view_logits
from emim.precision import Precision


def _same_views(views_VCTHW: Tensor, at: int) -> Tensor:
    del at
    return views_VCTHW


def _same_network(model: nn.Module) -> AbstractContextManager[None]:
    del model
    return nullcontext()


@dataclass(frozen=True)
class Condition:
    """What a network is run under; by default nothing is changed.

    Attributes:
        change_views: the views_VCTHW of a clip and its position in the list to views of the same shape. They are
            shared by all conditions: a new tensor is made where something changes.
        change_network: a context in which the network is changed.
    """

    change_views: Callable[[Tensor, int], Tensor] = _same_views
    change_network: Callable[[nn.Module], AbstractContextManager[None]] = _same_network


@dataclass(frozen=True)
class ClipOutputs:
    """What a network says of the clips that could be read, in list order, and which could not.

    Attributes:
        index: position in the list of each clip that was read, length N.
        label_N: class index.
        score_NK: mean over the views of the softmax of the logits, float32.
        logits_NVK: logits of every view, float32; None unless they were to be kept.
        missing: clips that could not be read, with the reason.
    """

    index: tuple[int, ...]
    label_N: Tensor
    score_NK: Tensor
    logits_NVK: Tensor | None
    missing: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _BatchOutputs:
    """The same of one batch; the tensors are None where none of its clips could be read."""

    index: tuple[int, ...] = ()
    label_B: Tensor | None = None
    score_BK: Tensor | None = None
    logits_BVK: Tensor | None = None
    missing: tuple[tuple[Path, str], ...] = ()


def clip_outputs(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "32-true",
    keep_logits: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> ClipOutputs | None:
    """Run a network over the fixed views of every clip.

    Arguments, errors and what the outputs depend on: see `outputs_under`. Processes but the first get None.
    """
    found = outputs_under(
        model,
        clip_list,
        preprocessing,
        (Condition(),),
        device=device,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        keep_logits=keep_logits,
        group=group,
        progress=progress,
    )
    return None if found is None else found[0]


def outputs_under(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    conditions: Sequence[Condition],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "32-true",
    keep_logits: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ClipOutputs, ...] | None:
    """Run a network over the fixed views of every clip, under each of several conditions. A video is read once.

    On the CPU, logits are the same to the bit whatever the number of workers, and of processes that have as many
    threads. Another batch size changes them by rounding, because matrix products then add in another order. A clip
    whose two best classes are that close could in principle change sides; the scores are not rounded to hide it.

    Args:
        model: [B, 3, T, H, W] to logits [B, K]; put in evaluation mode and moved to `device`.
        clip_list: the clips, with the classes of the network.
        preprocessing: views and normalisation.
        conditions: at least one.
        device: where to run.
        batch_size: videos per batch of one process.
        workers: loader processes.
        precision: what the network computes in; logits come in float32 either way.
        keep_logits: keep N x V x K logits, besides the scores.
        group: the processes that share the clips out; all of them call this with the same arguments.
        progress: called in the first process with (videos done by all, videos in all).

    Returns:
        The outputs under each condition in the first process, None in the others.

    Raises:
        DataError: there are no clips, or none could be read.
        CheckpointError: the network's logits are not finite; names the clip.
        ProcessError: another process of the group has ended.
    """
    if len(clip_list) == 0:
        raise DataError(f"{clip_list.source}: no clips to test")
    device = torch.device(device)
    model = model.to(device).eval()
    batches = [range(start, min(start + batch_size, len(clip_list))) for start in range(0, len(clip_list), batch_size)]
    own = _own_batches(clip_list, preprocessing, batches[group.rank :: group.world], workers)
    collected: list[tuple[_BatchOutputs, ...]] = []
    done = 0
    for _ in range(0, len(batches), group.world):
        # Round by round, so that a process which has died is noticed within a batch.
        batch = next(own, [])
        outputs = tuple(
            _run(model, batch, clip_list, device, precision, keep_logits, condition) for condition in conditions
        )
        gathered = group.gather(outputs)
        if gathered is None:
            continue
        collected += gathered
        done += sum(len(part.index) + len(part.missing) for part, *_ in gathered)
        if progress is not None:
            progress(done, len(clip_list))
    return tuple(_joined(parts, clip_list) for parts in zip(*collected, strict=True)) if group.rank == 0 else None


def _own_batches(
    clip_list: ClipList, preprocessing: Preprocessing, batches: Sequence[range], workers: int
) -> Iterator[list[tuple[int, Any]]]:
    """The batches of this process, as pairs of position and item; a broken clip's item is its error."""
    loader: DataLoader[Any] = DataLoader(
        ErrorsAsItems(TestClips(clip_list, preprocessing)),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        worker_init_fn=init_worker,
        collate_fn=list,
    )
    for positions, items in zip(batches, loader, strict=True):
        yield list(zip(positions, items, strict=True))


def _run(
    model: nn.Module,
    batch: list[tuple[int, Any]],
    clip_list: ClipList,
    device: torch.device,
    precision: Precision,
    keep_logits: bool,
    condition: Condition,
) -> _BatchOutputs:
    missing = tuple((clip_list.entries[at].path, str(item)) for at, item in batch if isinstance(item, EmimError))
    read = [(at, item) for at, item in batch if not isinstance(item, EmimError)]
    if not read:
        return _BatchOutputs(missing=missing)
    views = [condition.change_views(item["views"], at) for at, item in read]
    with (
        condition.change_network(model),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
    ):
        logits_BVK = torch.stack(view_logits(model, views, device))
        score_BK = mean_score(list(logits_BVK)).cpu()
    for (at, _), finite in zip(read, logits_BVK.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not finite:
            raise CheckpointError(
                f"{clip_list.entries[at].path}: the network's logits for this clip are NaN or infinite in {precision}; "
                "its weights are broken, or the precision is too low for them"
            )
    return _BatchOutputs(
        index=tuple(at for at, _ in read),
        label_B=torch.tensor([item["label"] for _, item in read]),
        score_BK=score_BK,
        logits_BVK=logits_BVK.cpu() if keep_logits else None,
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
        label_N=torch.cat([part.label_B for part in parts if part.label_B is not None]),
        score_NK=torch.cat(scores),
        logits_NVK=torch.cat(logits) if logits else None,
        missing=missing,
    )
