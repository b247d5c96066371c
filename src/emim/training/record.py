"""What a run writes down about the data it saw."""

from __future__ import annotations

from typing import Any

from emim.data.folder import fingerprint
from emim.data.manifest import ClipList


def data_record(train: ClipList, val: ClipList | None) -> dict[str, Any]:
    """Fingerprints of the clips (hash of the list, counts per class) and where they came from."""
    parts = {"train": train} if val is None else {"train": train, "val": val}
    return {name: {"source": str(part.source), "note": part.note, **fingerprint(part)} for name, part in parts.items()}
