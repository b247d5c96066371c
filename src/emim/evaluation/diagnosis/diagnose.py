"""Test the same clips in several conditions, and put together what that says of the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.evaluation.diagnosis.bootstrap import RESAMPLES, bootstrap
from emim.evaluation.diagnosis.conclusion import conclude, notes_on
from emim.evaluation.diagnosis.conditions import AS_IS, REVERSED, conditions_for
from emim.evaluation.diagnosis.network import emim_modules
from emim.evaluation.diagnosis.result import ConditionResult, Diagnosis
from emim.evaluation.diagnosis.swaps import find_swaps
from emim.evaluation.outputs import ClipOutputs, Precision, outputs_under
from emim.processes import ALONE, Team


def diagnose(
    model: nn.Module,
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "32-true",
    team: Team = ALONE,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis | None:
    """Whether a network uses motion: its accuracy on clips as they are, and with motion taken from clips or network.

    Every video is read once, and every condition takes the same views. As they are, clips are named exactly as
    `emim.evaluation.testing.test_model` names them. A clip that cannot be read is listed as missing.

    Args:
        seed: of the shuffles and the bootstrap, at least 0.
        resamples: of the bootstrap, at least 1.

    Other arguments, and errors: see `emim.evaluation.outputs.outputs_under`. Its weights are in the end as before.

    Returns:
        The diagnosis in the first process, None in the others.
    """
    conditions = conditions_for(model, seed)
    outputs = outputs_under(
        model,
        clip_list,
        preprocessing,
        tuple(conditions.values()),
        device=device,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        team=team,
        progress=progress,
    )
    if outputs is None:
        return None
    return put_together(
        dict(zip(conditions, outputs, strict=True)),
        clip_list,
        preprocessing,
        emim_modules=tuple(emim_modules(model)),
        seed=seed,
        resamples=resamples,
        precision=precision,
    )


def put_together(
    outputs: dict[str, ClipOutputs],
    clip_list: ClipList,
    preprocessing: Preprocessing,
    *,
    emim_modules: tuple[str, ...],
    seed: int,
    resamples: int,
    precision: Precision,
) -> Diagnosis:
    """The diagnosis from the outputs in each condition, of which as they are comes first."""
    plain = outputs[AS_IS]
    label_N = plain.label_N.numpy()
    predicted = {name: found.score_NK.argmax(1).numpy() for name, found in outputs.items()}
    measured = bootstrap(np.stack([named_N == label_N for named_N in predicted.values()]), seed, resamples)
    results = tuple(
        ConditionResult(name, accuracy, None if name == AS_IS else difference, tuple(predicted[name].tolist()))
        for name, accuracy, difference in zip(outputs, measured.accuracy, measured.difference, strict=True)
    )
    chance = int(np.bincount(label_N).max()) / len(label_N)
    return Diagnosis(
        classes=clip_list.classes,
        clips=tuple(clip_list.entries[at] for at in plain.index),
        missing=plain.missing,
        conditions=results,
        chance=chance,
        swaps=find_swaps(label_N, predicted[AS_IS], predicted[REVERSED], len(clip_list.classes)),
        conclusion=conclude(results, chance),
        notes=notes_on(emim_modules, preprocessing.num_frames),
        emim_modules=emim_modules,
        seed=seed,
        resamples=resamples,
        preprocessing=preprocessing,
        precision=precision,
    )
