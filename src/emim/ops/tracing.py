"""Whether Python code runs for its effect on tensors, or so that a graph can be made of it."""

from __future__ import annotations

import torch


def being_exported() -> bool:
    """Whether a graph is being made that others will run, by torch.export, ONNX export or torch.jit.trace."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def being_traced() -> bool:
    """The same, or by torch.compile."""
    return torch.compiler.is_compiling() or being_exported()
