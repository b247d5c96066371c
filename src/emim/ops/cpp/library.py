"""The compiled library: found in the cache, or built from `cost_volume.cpp` with the compiler of this machine.

Compiling takes a few seconds, once for each machine and version of the source. The package works without: where
nothing can be built, `why_no_library` says why and the dense backend runs.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from emim.ops.common import constant_while_compiling

__all__ = ["CACHE_VARIABLE", "VECTOR_VARIABLE", "library", "why_no_library"]

CACHE_VARIABLE: Final = "EMIM_CACHE"
"""Folder for what is compiled; by default `emim` in the user's cache folder."""

VECTOR_VARIABLE: Final = "EMIM_CPP_VECTOR"
"""Bytes of a vector in the compiled code: 16, 32 or 64; by default as wide as the registers of this processor. Every
width gives the right results on every processor, but other widths than its own are slower. Read at each call."""

_VECTOR_BYTES: Final = ("", "16", "32", "64")
_SOURCE: Final = Path(__file__).with_name("cost_volume.cpp")
_COMPILERS: Final = ("g++", "clang++", "c++")
# fp-contract: products and sums in one instruction, as matrix products do. No -ffast-math: linked into a shared
# library it would change how the whole process treats denormal numbers.
_FLAGS: Final = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
_PATIENCE_SECONDS: Final = 300  # about 10 on an idle core


@constant_while_compiling
def why_no_library() -> str | None:
    """Return the reason why this machine has no compiled library, or None; builds it if that was not tried yet."""
    library = _load(os.environ.get(VECTOR_VARIABLE, ""))
    return library if isinstance(library, str) else None


def library() -> ctypes.CDLL:
    """The compiled library; only where `why_no_library` is None."""
    loaded = _load(os.environ.get(VECTOR_VARIABLE, ""))
    assert isinstance(loaded, ctypes.CDLL), loaded
    return loaded


@functools.cache
def _load(vector_bytes: str) -> ctypes.CDLL | str:
    """The library, or why there is none. One answer for the life of the process.

    Args:
        vector_bytes: width of its vectors, empty for that of this processor.
    """
    if vector_bytes not in _VECTOR_BYTES:
        return f"{VECTOR_VARIABLE} is {vector_bytes!r}, which is none of {', '.join(_VECTOR_BYTES[1:])} bytes"
    if sys.platform == "win32":
        return "it is not built on Windows"
    compiler = _compiler()
    if compiler is None:
        return f"no C++ compiler (looked for CXX and {', '.join(_COMPILERS)}) to build it with"
    try:
        return ctypes.CDLL(str(_built(compiler, vector_bytes)))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").splitlines()
        detail = next((line for line in lines if "error" in line), lines[0] if lines else f"status {error.returncode}")
        return f"{compiler} cannot build it ({detail.strip()[:200]})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be built ({error})"


def _compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else _COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def _built(compiler: str, vector_bytes: str = "") -> Path:
    flags = [*_FLAGS, "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"]
    if vector_bytes:
        flags.append(f"-DEMIM_VECTOR_BYTES={vector_bytes}")
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True
    ).stdout
    # The processor, too: a home folder may be shared by machines that differ.
    key = hashlib.sha256(repr((_SOURCE.read_text(), version, flags, _instruction_sets())).encode()).hexdigest()[:16]
    folder = _cache_folder()
    path = folder / f"cost_volume-{key}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / path.name
        subprocess.run(
            [compiler, *flags, "-o", str(made), str(_SOURCE), *(["-ldl"] if sys.platform == "linux" else [])],
            capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True,
        )  # fmt: skip
        made.replace(path)
    return path


def _cache_folder() -> Path:
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emim"


def _instruction_sets() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {' '.join(sorted(flags.split()))}"
