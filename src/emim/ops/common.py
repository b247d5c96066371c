"""Helpers that several operators share: how code is being run, memory layouts, work in blocks of rows.

Shape suffixes: B batch, N heads, T frames, H and W token grid, D head width, R rows, C and K channels.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

__all__ = [
    "PAD_VALUE",
    "WHY_NO_TRITON",
    "AnyFunction",
    "PairFunction",
    "being_exported",
    "being_traced",
    "channels_together",
    "constant_while_compiling",
    "empty_like_rows",
    "has_values",
    "in_row_blocks",
    "on_frame_pairs",
    "only_values_on_cpu",
    "under_function_transform",
    "warn_once",
    "without_autocast",
]

PAD_VALUE: Final = 1e-6
"""Every channel of a key or value outside the frame. It takes part in the softmax (docs/method.md, step 3)."""


AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def constant_while_compiling(function: AnyFunction) -> AnyFunction:
    """Decorator of a function whose result torch.compile takes as a constant instead of tracing the function.

    The same as `torch.compiler.assume_constant_result`, which would import the compiler: three seconds for programs
    that never compile anything.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def has_values(x: Tensor) -> bool:
    """False for tensors that are shapes alone: on the device "meta", or made under `FakeTensorMode`."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")  # where nothing imported it there are none
    return x.device.type != "meta" and not (fake is not None and fake.is_fake(x))


def under_function_transform() -> bool:
    """True inside `torch.func` transforms such as grad, vjp and vmap."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Context in which autocast is off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device_type=device.type, enabled=False)


def _why_no_triton() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed (pip install 'emim[gpu]')"
    if torch.version.cuda is None and os.environ.get("TRITON_INTERPRET", "0") == "0":
        return "this PyTorch is built without CUDA"
    return None


WHY_NO_TRITON: Final = _why_no_triton()
"""Reason why Triton kernels cannot run in this process, or None. Triton takes half a second to import, so it is
imported only where they can."""


def being_exported() -> bool:
    """True while a graph is made that others will run: by torch.export, ONNX export or torch.jit.trace."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def being_traced() -> bool:
    """True while a graph is made of the code, by torch.compile or for export."""
    return torch.compiler.is_compiling() or being_exported()


def only_values_on_cpu(x: Tensor) -> bool:
    """True if x is on the CPU, no gradients are recorded and no graph is made: work may be split to fit the caches."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not being_traced()


def channels_together(x_BNTHWD: Tensor) -> Tensor:
    """x, copied if the channels of a position do not lie side by side."""
    return x_BNTHWD if x_BNTHWD.stride(-1) == 1 else x_BNTHWD.contiguous()


def empty_like_rows(x_BNTHWD: Tensor) -> Tensor:
    """Not yet filled, in the order of dimensions of x if the channels of a position lie side by side there."""
    if x_BNTHWD.stride(-1) == 1:
        return torch.empty_like(x_BNTHWD)
    return torch.empty_like(x_BNTHWD, memory_format=torch.contiguous_format)


_ROWS = 1024
"""Rows of a block: with the widths of these networks what lies between two layers stays in a core's cache."""


def in_row_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of single rows that needs large temporaries, such as an MLP, to blocks of rows.

    On CPUs, and where nothing is kept for gradients, the function is called with blocks of rows: the hidden
    activations of a whole clip would travel to memory and back twice. Values are the same up to rounding.

    Args:
        function: [R, C] to [R, K].
        x: [..., C].

    Returns:
        [..., K].
    """
    # In this order: in an exported graph a comparison of sizes would become a condition on its inputs.
    if not only_values_on_cpu(x) or x.numel() < 2 * _ROWS * x.shape[-1]:
        return function(x)
    blocks_RC = torch.split(x.reshape(-1, x.shape[-1]), _ROWS)
    first_RK = function(blocks_RC[0])
    out_RK = first_RK.new_empty(x.shape[:-1].numel(), first_RK.shape[-1])
    for number, part_RK in enumerate(torch.split(out_RK, _ROWS)):
        part_RK.copy_(function(blocks_RC[number]) if number else first_RK)
    return out_RK.view(*x.shape[:-1], -1)


PairFunction = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From scaled queries, keys and values of frame pairs, and the bias, to context and affinity."""


def on_frame_pairs(
    function: PairFunction,
    q_BNTHWD: Tensor,
    k_BNTHWD: Tensor,
    v_BNTHWD: Tensor,
    rpb_NIJ: Tensor,
    *,
    with_affinity: bool,
) -> tuple[Tensor, Tensor]:
    """Call a function of frame pairs: each frame with the next, the last pair twice (docs/method.md, step 2).

    One frame is paired with itself. The function computes in float32, in float64 for inputs in that.
    """
    compute_dtype = torch.float64 if q_BNTHWD.dtype == torch.float64 else torch.float32
    T, D = q_BNTHWD.shape[2], q_BNTHWD.shape[5]
    first, second = (slice(0, -1), slice(1, None)) if T > 1 else (slice(None), slice(None))
    context, affinity = function(
        q_BNTHWD[:, :, first].to(compute_dtype) * D**-0.5,
        k_BNTHWD[:, :, second].to(compute_dtype),
        v_BNTHWD[:, :, second].to(compute_dtype),
        rpb_NIJ.to(compute_dtype),
    )
    if T > 1:
        context = _repeat_last_frame(context)
        affinity = _repeat_last_frame(affinity) if with_affinity else affinity
    return context.to(q_BNTHWD.dtype), affinity


def _repeat_last_frame(x_BNTHWC: Tensor) -> Tensor:
    return torch.cat([x_BNTHWC, x_BNTHWC[:, :, -1:]], dim=2)


_warned: set[str] = set()


def warn_once(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, the first time that this message comes up in the process."""
    if message not in _warned and not torch.compiler.is_compiling():
        _warned.add(message)
        warnings.warn(message, category, stacklevel=3)
