"""What a run's folder holds, as far as it got: finished, interrupted or diverged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emim.errors import CheckpointError, ConfigError
from emim.models.artifact import ModelCard, read_card
from emim.report.history import History, read_history
from emim.training.config import RunConfig
from emim.training.fit import MODEL_FILE, SUMMARY_FILE
from emim.training.logs import LOG_FILE
from emim.training.recipe import load_recipe
from emim.training.run import CONFIG_FILE, DATA_FILE, VERSIONS_FILE

Ending = Literal["finished", "diverged", "unfinished"]


@dataclass(frozen=True)
class RunRecord:
    """What a run has written down. What is absent or cannot be read is None, or empty, and named in `gaps`.

    Attributes:
        folder: the run's folder.
        config: the configuration.
        data: fingerprints by part ("train", "val"); see `emim.training.record.data_record`.
        machine: what it ran on; see `emim.machine.Machine.to_dict`.
        summary: how it ended.
        card: of the trained network.
        history: what was logged.
        divergences: what the dumps of a loss that was no number say, oldest first.
        gaps: sentences on what is missing.
    """

    folder: Path
    config: RunConfig | None
    data: dict[str, dict[str, Any]]
    machine: dict[str, Any]
    summary: dict[str, Any]
    card: ModelCard | None
    history: History
    divergences: tuple[dict[str, Any], ...]
    gaps: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name, which tells runs of one configuration apart."""
        return self.folder.resolve().name

    @property
    def model_file(self) -> Path:
        """Where the trained network is, if there is one."""
        return self.folder / MODEL_FILE

    @property
    def ending(self) -> Ending:
        """How far the run got."""
        if self.summary:
            return "finished"
        return "diverged" if self.divergences else "unfinished"


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder. Its state (`last.ckpt`) is a pickle and is not opened.

    Raises:
        ConfigError: it is no run's folder.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder}: not a run folder, it has no {CONFIG_FILE}; give the folder that a training wrote")
    gaps: list[str] = []
    divergences = tuple(
        found
        for path in sorted(folder.glob("diverged-step-*/divergence.json"), key=lambda path: path.stat().st_mtime)
        if (found := _read_json(path, gaps))
    )
    summary = _read_json(folder / SUMMARY_FILE, gaps) if (folder / SUMMARY_FILE).is_file() else {}
    if not summary:
        gaps.append(
            f"The run has not ended by itself: there is no {SUMMARY_FILE}, and so no time, steps or list of skipped "
            f"clips. `emim train --resume {folder}` goes on with it."
        )
    return RunRecord(
        folder=folder,
        config=_read_config(folder / CONFIG_FILE, gaps),
        data=_read_json(folder / DATA_FILE, gaps),
        machine=_read_json(folder / VERSIONS_FILE, gaps),
        summary=summary,
        card=_read_card(folder / MODEL_FILE, gaps),
        history=_read_history(folder / LOG_FILE, gaps),
        divergences=divergences,
        gaps=tuple(gaps),
    )


def _read_json(path: Path, gaps: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        gaps.append(f"There is no {path.name}.")
    except (OSError, ValueError) as error:
        gaps.append(f"{path.name} cannot be read ({error}).")
    else:
        if isinstance(content, dict):
            return content
        gaps.append(f"{path.name} holds no JSON object.")
    return {}


def _read_config(path: Path, gaps: list[str]) -> RunConfig | None:
    try:
        return load_recipe(path)
    except ConfigError as error:
        gaps.append(f"The configuration cannot be read: {error}.")
        return None


def _read_card(path: Path, gaps: list[str]) -> ModelCard | None:
    if not path.is_file():
        gaps.append(f"There is no {path.name}: the run saved no network, so nothing could be tested.")
        return None
    try:
        return read_card(path)
    except CheckpointError as error:
        gaps.append(f"The network cannot be read, so nothing could be tested: {error}.")
        return None


def _read_history(path: Path, gaps: list[str]) -> History:
    try:
        history = read_history(path)
    except FileNotFoundError:
        gaps.append(f"There is no {path.name}, so there are no curves: the run ended before its first line.")
        return History(())
    except (OSError, ValueError) as error:
        gaps.append(f"{path.name} cannot be read, so there are no curves ({error}).")
        return History(())
    if not history.rows:
        gaps.append(f"{path.name} holds no row yet, so there are no curves.")
    return history
