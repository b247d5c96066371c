"""The log of a run as CSV, which goes on where an interrupted run stopped."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

LOG_FILE = "metrics.csv"


def csv_log(folder: Path, *, first_step: int) -> CSVLogger:
    """A logger that writes `metrics.csv` and keeps the rows of an earlier part of the run.

    Args:
        folder: the run's folder.
        first_step: step that this part begins with; later rows of the earlier part are training that was lost.
    """
    earlier = _read(folder / LOG_FILE)
    logger = CSVLogger(folder, name="", version="")
    writer = logger.experiment  # drops the file
    for row in earlier:
        if row["step"] < first_step:
            writer.log_metrics(row, int(row["step"]))
    writer.save()
    return logger


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if value} for row in rows if row.get("step")]
