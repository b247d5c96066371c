"""Weight initialisation shared by the modules (emim-spec, "Initialisation")."""

from __future__ import annotations

from torch import nn


def init_linear(module: nn.Module) -> None:
    """Linear weights truncated normal with std 0.02, biases zero; other modules stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
