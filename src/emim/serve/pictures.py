"""Pictures of a result: the motion over the video, and the evidence for the prediction."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from emim.data.preprocessing import finish_views
from emim.errors import EmimError
from emim.inference.recogniser import Recogniser
from emim.motion.animation import Look, animate
from emim.motion.explanation import explain_views
from emim.motion.video import FieldOptions
from emim.serve.intake import Intake

__all__ = ["Pictures", "Results", "StoppedError", "draw_pictures"]

_SHORT_SIDE = 128
"""Short side in pixels of the frames for the motion: half the time of the finer fields of `emim visualize`."""


class StoppedError(EmimError):
    """The request was cancelled."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one result.

    Attributes:
        motion: an mp4; None if it could not be drawn.
        explanation: a PNG; None if it could not be drawn.
        description: the explanation in words.
        problem: why something is missing; empty if nothing is.
    """

    motion: Path | None
    explanation: Path | None
    description: str
    problem: str


def draw_pictures(
    recogniser: Recogniser,
    intake: Intake,
    copy: Path,
    name: str,
    label: str,
    folder: Path,
    stopped: threading.Event,
) -> Pictures:
    """Draw into a folder. A network without EMIM blocks has no motion to show, and says so.

    Args:
        recogniser: the network.
        intake: the decoded upload.
        copy: the working copy.
        name: the sender's name for the video.
        label: the class to explain.
        folder: output folder.
        stopped: event that ends the drawing.

    Raises:
        StoppedError: `stopped` was set.
    """

    def go_on(done: int, total: int) -> None:
        if stopped.is_set():
            raise StoppedError(f"stopped at frame {done} of {total}")

    motion: Path | None = folder / "motion.mp4"
    explanation: Path | None = folder / "explanation.png"
    description, problems = "", []
    assert motion is not None
    assert explanation is not None
    go_on(0, intake.copied)
    try:
        views_VCTHW = finish_views(torch.from_numpy(intake.views_VCTHW), recogniser.preprocessing)
        explained = explain_views(recogniser, name, views_VCTHW, label)
        explained.save(explanation)
        description = explained.describe()
    except EmimError as error:
        explanation = None
        problems.append(f"No explanation: {error}.")
    go_on(0, intake.copied)
    try:
        side = max(_SHORT_SIDE, recogniser.preprocessing.size)
        options = FieldOptions(short_side=side)
        animate(
            recogniser.model,
            recogniser.preprocessing,
            copy,
            motion,
            look=Look(style="both"),
            options=options,
            progress=go_on,
        )
    except StoppedError:
        raise
    except EmimError as error:
        motion = None
        problems.append(f"No motion picture: {error}.")
    return Pictures(motion, explanation, description, " ".join(problems))


class Results:
    """Folders of pictures under unguessable names. Not thread-safe.

    Args:
        folder: parent of the folders.
        keep_seconds: time for which a result is kept.
        keep_results: number of results kept; the oldest are deleted first.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, folder: Path, keep_seconds: float, keep_results: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._keep_seconds = keep_seconds
        self._keep_results = keep_results
        self._clock = clock
        self._made: OrderedDict[str, float] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._made)

    def add(self, pictures: list[Path]) -> str:
        """Move files into a new result; returns its name."""
        name = secrets.token_urlsafe(16)
        place = self._folder / name
        place.mkdir()
        for picture in pictures:
            shutil.move(picture, place / picture.name)
        self._made[name] = self._clock()
        self.forget_old()
        return name

    def find(self, name: str, picture: str) -> Path | None:
        """A picture that is still kept."""
        self.forget_old()
        if name not in self._made or picture != Path(picture).name:
            return None
        path = self._folder / name / picture
        return path if path.is_file() else None

    def forget_old(self) -> None:
        """Delete what is past its time, or one too many."""
        now = self._clock()
        while self._made:
            name, made = next(iter(self._made.items()))
            if len(self._made) <= self._keep_results and now - made <= self._keep_seconds:
                return
            del self._made[name]
            shutil.rmtree(self._folder / name, ignore_errors=True)
