"""What the tests of the fused backend share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that PyTorch hands out uninitialised is filled with NaN; tilings are not tuned."""
    monkeypatch.setenv("EMIM_OPS_TUNE", "0")
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(False)
