"""The backend for CPUs: C++ that is compiled on first use, where there is a compiler."""

from __future__ import annotations

from emim.ops.cpp.library import why_no_library
from emim.ops.cpp.op import cost_volume_cpp, takes

__all__ = ["cost_volume_cpp", "takes", "why_no_library"]
