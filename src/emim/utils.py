"""Atomic writing of files, existence of paths, and suggestions for misspelt names."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "is_file", "is_folder", "nearest", "write_json"]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which replaces `path` when the block ends without an error.

    After an error the temporary file is removed and an earlier `path` is unchanged. The folder is made if needed. A
    symbolic link stays and its target is replaced; a device or pipe is written to, not replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            temporary.touch()
            yield temporary
            with temporary.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp gives access to the owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return True for a file; False also for a path that no file system can have, or that cannot be looked at."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return True for a folder; False also for a path that no file system can have, or that cannot be looked at."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return a clause for an error message: the most similar known name if there is one, else all of them.

    >>> nearest("densse", ["dense", "reference"])
    "did you mean 'dense'?"
    >>> nearest("x", ["dense", "reference"])
    'known: dense, reference'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=cutoff)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)
