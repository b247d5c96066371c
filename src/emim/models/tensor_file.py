"""Read tensors from safetensors and PyTorch files that may be cut, damaged or hostile.

A file runs no code, and asks for no more time and memory than its size stands for: what it announces is checked before
it is read. PyTorch files are pickles; they are scanned first (`_scan_pickle`) and then read with `weights_only=True`.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emim.errors import CheckpointError
from emim.utils import is_file

__all__ = ["IF_TRUSTED", "TensorFile", "read_dictionary", "read_tensor_file"]

IF_TRUSTED: Final = ". If you trust it, load it yourself and save its state_dict, best as safetensors"
"""Advice at the end of the error for a pickle that is refused."""

_MIB: Final = 2**20
_MAX_HEADER: Final = 8 * _MIB
"""Bytes of a safetensors header. A network of 800 tensors has 0.1 MiB."""

_MAX_PICKLE: Final = 4 * _MIB
"""Bytes of the pickle in a PyTorch file, values of tensors apart. A training state of 3,000 tensors has 0.5 MiB."""

_MAX_RECORDS: Final = 50_000
"""Records (storages of tensors, mostly) in a PyTorch file."""

_MAX_UNFOLDED: Final = 10_000_000
"""Values that a pickle may stand for where it refers to one tuple many times."""

_NESTING_KEYS: Final = ("model", "model_state", "state_dict", "module")
"""Keys under which published checkpoints keep the weights."""

_PREFIXES: Final = ("module.", "model.")
"""Prefixes that wrappers (data parallel, training modules) put before every name."""

_DTYPES: Final = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of values that can be read, by their safetensors names."""

_ALLOWED_GLOBALS: Final = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.set|torch\.(Size|device|bool|b?float\d+|u?int\d+)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage"
)
"""Names that a pickle may use: plain containers and dense tensors. None of it runs code or reserves memory."""

_READABLE: Final = "only dense tensors of integers or of floats of 16 to 64 bits can be read"

_REFUSED_TENSORS: Final = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_njt": "nested",
    "NestedTensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_tensor_v3": "float8 or unsigned",
}


@dataclass(frozen=True)
class TensorFile:
    """The tensors in a file.

    Attributes:
        path: the file.
        tensors: dense tensors on the CPU by name, without the nesting and prefixes of `_NESTING_KEYS` and `_PREFIXES`.
            Values stay on disk until they are used, where the format allows it.
        metadata: the text that a safetensors file carries besides; empty for PyTorch files.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_tensor_file(path: Path) -> TensorFile:
    """Read a safetensors file (by its suffix) or a PyTorch file of weights.

    PyTorch files have the weights at the top or under `model`, `model_state`, `state_dict` or `module`; a prefix
    `module.` or `model.` that all names have is removed.

    Raises:
        CheckpointError: the file is missing, unreadable, would run code, holds no tensors, holds other than dense
            tensors of floats or integers, or announces more than it holds.
    """
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = read_dictionary(path), {}
    for key in _NESTING_KEYS:
        if isinstance(inner := content.get(key), dict):
            content = _by_name(inner)
            break
    tensors = {name: _checked(path, name, value) for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: no weights found, neither at the top nor under {', '.join(_NESTING_KEYS)}; "
            f"its keys are {', '.join(name[:80] for name in list(content)[:8]) or 'none'}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return TensorFile(path, tensors, metadata)


def read_dictionary(path: Path) -> dict[str, Any]:
    """Read a PyTorch file of plain values and dense tensors (on the CPU), a dictionary at the top.

    Tensors inside are not checked; see `read_tensor_file`.

    Raises:
        CheckpointError: the file is missing, unreadable, would run code, or announces more than it holds.
    """
    size = _size_of(path)
    archive = _is_archive(path)
    if archive:
        _check_archive(path, size)
    else:
        _check_legacy(path, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and storages; what matters is raised
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # a broken file can make any operation of the reader fail
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return _by_name(content)


def _by_name(content: dict[object, Any]) -> dict[str, Any]:
    """The entries of a dictionary by text: its keys may be anything, and large."""
    # `content` may be an OrderedDict whose own attribute hides the method.
    return {
        key if isinstance(key, str) else f"{type(key).__name__} {key if isinstance(key, int) else ''}".rstrip(): value
        for key, value in dict.items(content)
    }


def _size_of(path: Path) -> int:
    if not is_file(path):
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _is_archive(path: Path) -> bool:
    """True where `torch.load` sees a zip archive."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    text = str(error).strip().rpartition("WeightsUnpickler error: ")[2]  # behind a page of PyTorch's advice
    return CheckpointError(
        f"{path}: not a readable checkpoint ({text.splitlines()[0][:200] if text else type(error).__name__})"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    _size_of(path)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MAX_HEADER:
            raise CheckpointError(
                f"{path}: not a readable safetensors file: a header of {header} bytes, at most {_MAX_HEADER} are read"
            )
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118, it is no dictionary
                if (kind := opened.get_slice(name).get_dtype()) not in _DTYPES:
                    raise CheckpointError(f"{path}: {name[:200]} has values of type {kind}; {_READABLE}")
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _checked(path: Path, name: str, value: Tensor) -> Tensor:
    """`value` without its gradient, if it is a dense tensor whose values are all in the file."""
    name = name[:200]
    kinds = {"nested": value.is_nested, "quantised": value.is_quantized, "meta": value.is_meta}
    kinds["sparse"] = value.layout != torch.strided
    for kind, found in kinds.items():
        if found:
            raise CheckpointError(f"{path}: {name} is a {kind} tensor; {_READABLE}")
    if value.dtype not in _DTYPES.values():
        raise CheckpointError(f"{path}: {name} has values of type {value.dtype}; {_READABLE}")
    stored = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > stored:
        raise CheckpointError(
            f"{path}: {name} announces {list(value.shape)} {value.dtype} values, but the file has {stored} bytes of it"
        )
    return value.detach()


def _check_archive(path: Path, size: int) -> None:
    """Check the index and the pickles of a zip archive, which PyTorch files are since version 1.6."""
    try:
        with path.open("rb") as file:
            records = _count_records(file, size)
        if records > _MAX_RECORDS:
            raise CheckpointError(f"{path}: {records} records, at most {_MAX_RECORDS} are read")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise CheckpointError(f"{path}: a TorchScript program; save the state_dict of its network instead")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(f"{path}: a compressed archive; PyTorch writes and reads them uncompressed")
            if (announced := sum(entry.file_size for entry in entries)) > size:
                raise CheckpointError(f"{path}: announces {announced} bytes of values, but has {size}")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > _MAX_PICKLE:
                        raise _too_long(path, entry.file_size)
                    _scan_pickle(path, io.BytesIO(archive.read(entry)))
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, struct.error) as error:
        raise _unreadable(path, error) from error


def _count_records(file: io.BufferedReader, size: int) -> int:
    """The number of records that the end of a zip archive states.

    Raises:
        ValueError: the index is not directly before the end, so that two readers could find two indices.
    """
    file.seek(max(0, size - 42))
    locator, end_record = file.read(20), file.read(22)
    end = size - 22
    magic, records, length, offset = struct.unpack("<4s6xHII2x", end_record)
    if magic != b"PK\x05\x06":
        raise ValueError("cut, or with bytes after its end")
    if locator.startswith(b"PK\x06\x07"):  # zip64, as PyTorch writes
        (end,) = struct.unpack("<8xQ4x", locator)
        file.seek(min(end, size))
        records, length, offset = struct.unpack("<32xQQQ", file.read(56))
    if offset + length != end:
        raise ValueError("the index of the archive is not at its end")
    return int(records)


def _check_legacy(path: Path, size: int) -> None:
    """Check the pickles at the beginning of a PyTorch file from before version 1.6: four, and the list of storages."""
    stream = io.BytesIO()
    try:
        with path.open("rb") as file:
            stream = io.BytesIO(file.read(_MAX_PICKLE))
        for _ in range(5):
            _scan_pickle(path, stream)
    except (OSError, ValueError) as error:
        if stream.tell() == _MAX_PICKLE < size:
            raise _too_long(path, size) from error
        raise _unreadable(path, error) from error


def _too_long(path: Path, size: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: the description of its content is longer than {_MAX_PICKLE} bytes ({size} in all); it holds too many "
        "keys or large values that are no tensors"
    )


def _scan_pickle(path: Path, stream: io.BytesIO) -> None:
    """Read a pickle without building anything, and refuse what is neither a plain value nor a dense tensor.

    It is followed with the number of values in place of each value, as a few tuples that refer to each other can stand
    for 2^50 values, which take as long to hash.

    Raises:
        CheckpointError: the pickle asks for something else, or stands for too many values.
        ValueError: it is no whole pickle.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str):
                texts = [*texts[-1:], argument]
            if opcode.name in ("GLOBAL", "INST"):
                _check_global(path, str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                _check_global(path, ".".join(texts))
            elif opcode.name.startswith("EXT"):
                _check_global(path, opcode.name)
            if opcode.name == "MARK":
                marks.append(len(stack))
                continue
            if "PUT" in opcode.name or opcode.name == "MEMOIZE":
                memo[len(memo) if argument is None else int(argument)] = stack[-1]
                continue
            taken = 0
            if pickletools.markobject in opcode.stack_before:
                start = marks.pop()
                taken = sum(stack[start:])
                del stack[start:]
            for _ in range(_plain_operands(opcode)):
                taken += stack.pop()
            values = memo[int(argument or 0)] if "GET" in opcode.name else taken + 1
            if values > _MAX_UNFOLDED:
                raise CheckpointError(f"{path}: refused, its tuples stand for more than {_MAX_UNFOLDED} values")
            stack += [values] * len(opcode.stack_after)
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged pickle: {type(error).__name__}") from error


def _plain_operands(opcode: pickletools.OpcodeInfo) -> int:
    """Operands of an operation besides those since the last mark."""
    operands = opcode.stack_before
    return operands.index(pickletools.markobject) if pickletools.markobject in operands else len(operands)


def _check_global(path: Path, name: str) -> None:
    if _ALLOWED_GLOBALS.fullmatch(name):
        return
    if kind := _REFUSED_TENSORS.get(name.rpartition(".")[2]):
        raise CheckpointError(f"{path}: holds a {kind} tensor; {_READABLE}")
    raise CheckpointError(
        f"{path}: refused, it is not a file of weights alone (it asks for {name[:200]}), and reading anything else in "
        f"a pickle could run code{IF_TRUSTED}"
    )
