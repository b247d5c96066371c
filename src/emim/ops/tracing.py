"""Whether Python code runs for its effect on tensors, or so that a graph can be made of it, or for gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def being_exported() -> bool:
    """Whether a graph is being made that others will run, by torch.export, ONNX export or torch.jit.trace."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def being_traced() -> bool:
    """The same, or by torch.compile."""
    return torch.compiler.is_compiling() or being_exported()


def only_values_on_cpu(x: Tensor) -> bool:
    """Whether what is done with x on the CPU leaves nothing but values: no gradients are kept, no graph is made.

    Work may then be cut up as the caches like it.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not being_traced()
