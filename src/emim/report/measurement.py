"""One test of a network on labelled clips, with or without the diagnosis: every video is read once.

Shape suffixes: N clips that could be read, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.evaluation.diagnosis import Diagnosis
from emim.evaluation.diagnosis.ablations import AS_IS, conditions_for, emim_modules
from emim.evaluation.diagnosis.diagnose import put_together
from emim.evaluation.diagnosis.statistics import RESAMPLES
from emim.evaluation.outputs import ClipOutputs, outputs_under
from emim.evaluation.testing import TestResult, summarise
from emim.inference.recogniser import Recogniser

_SEED = 0


@dataclass(frozen=True)
class Measurement:
    """What a network did on labelled clips.

    Attributes:
        clips: the list, those included that could not be read.
        outputs: what it said of every clip as it is.
        test: accuracies and confusion.
        diagnosis: accuracy with motion taken away, if that was asked for.
        top5_hits: clips whose label was among the five best.
        seconds: how long it took.
        device: where it ran.
    """

    clips: ClipList
    outputs: ClipOutputs
    test: TestResult
    diagnosis: Diagnosis | None
    top5_hits: int
    seconds: float
    device: str


def measure(
    recogniser: Recogniser,
    clip_list: ClipList,
    *,
    diagnosis: bool = True,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Test a network, and diagnose it in the same reading.

    Args:
        recogniser: the network, its device and precision.
        clip_list: labelled clips, with the classes of the network.
        diagnosis: also test with motion taken from clips and network, some six times the computing.
        preprocessing: the views; None for those it was trained for.
        batch_size: videos per batch.
        workers: loader processes.
        progress: called with clips done and in all.

    Raises: see `emim.evaluation.outputs.outputs_under`.
    """
    pre = preprocessing or recogniser.preprocessing
    conditions = conditions_for(recogniser.model, _SEED)
    if not diagnosis:
        conditions = {AS_IS: conditions[AS_IS]}
    started = time.monotonic()
    found = outputs_under(
        recogniser.model,
        clip_list,
        pre,
        tuple(conditions.values()),
        device=recogniser.device,
        batch_size=batch_size,
        workers=workers,
        precision=recogniser.precision,
        progress=progress,
    )
    assert found is not None  # this process is the first one
    outputs = dict(zip(conditions, found, strict=True))
    plain = outputs[AS_IS]
    diagnosed = None
    if diagnosis:
        diagnosed = put_together(
            outputs,
            clip_list,
            pre,
            emim_modules=tuple(emim_modules(recogniser.model)),
            seed=_SEED,
            resamples=RESAMPLES,
            precision=recogniser.precision,
        )
    test = summarise(
        plain.score_NK,
        plain.label_N,
        clip_list.classes,
        preprocessing=pre,
        precision=recogniser.precision,
        missing=plain.missing,
    )
    return Measurement(
        clips=clip_list,
        outputs=plain,
        test=test,
        diagnosis=diagnosed,
        top5_hits=round(test.top5 * test.clips),
        seconds=time.monotonic() - started,
        device=str(recogniser.device),
    )
