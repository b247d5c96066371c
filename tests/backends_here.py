"""Which backends of cost-volume attention can run where the tests do."""

from __future__ import annotations

import torch

from emim.errors import OpInputError
from emim.ops import explain_backend


def why_not(backend: str) -> str | None:
    """Why a backend cannot take float32 on the CPU here, or None if it can."""
    x = torch.zeros(1, 1, 1, 1, 1, 8)
    try:
        explain_backend(x, x, x, torch.zeros(1, 1, 1), backend=backend)
    except OpInputError as error:
        return str(error)
    return None
