"""Pictures of the latest results, kept for some minutes so that the page can fetch them."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path


class Results:
    """Folders of pictures under names that nobody can guess. For one thread.

    Args:
        folder: where they are.
        keep_seconds: how long.
        keep_results: how many; the oldest go first.
        clock: seconds that only grow.
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
