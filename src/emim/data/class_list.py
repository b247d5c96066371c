"""The list of class names that may lie beside a manifest: `classes.txt`, one name a line, in index order.

A manifest alone cannot say which classes there are besides those of its rows, nor their order. Where the file
`classes.txt` lies in the manifest's folder, it does. UTF-8; blank lines at the end are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emim.errors import DataError, ManifestError

CLASS_LIST_NAME = "classes.txt"


def read_class_list(path: Path | str) -> tuple[str, ...]:
    """Class names in index order.

    Raises:
        ManifestError: the file cannot be read, is empty, or has an empty or a repeated name; names the line.
    """
    source = Path(path)
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(source, None, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(source, None, f"byte {error.start} is not UTF-8; save the file as UTF-8") from error
    # splitlines would also split at characters that may be part of a name.
    names = [line.strip() for line in text.rstrip().replace("\r\n", "\n").split("\n")]
    if names == [""]:
        raise ManifestError(source, None, "the class list is empty; expected one class name a line")
    first_line: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise ManifestError(source, number, "empty class name")
        if first_line.setdefault(name, number) != number:
            raise ManifestError(source, number, f"class {name!r} is already in row {first_line[name]}")
    return tuple(names)


def class_list_text(classes: Sequence[str]) -> str:
    """The content of a class list file.

    Raises:
        DataError: a name would not come back as it is: empty, repeated, with a line break or outer spaces.
    """
    seen: set[str] = set()
    for index, name in enumerate(classes):
        if not name or name != name.strip() or "\n" in name or "\r" in name:
            raise DataError(f"class {index}, {name!r}: a class name needs text, and no line break or outer spaces")
        if name in seen:
            raise DataError(f"class {index}, {name!r}: the name occurs twice in the class list")
        seen.add(name)
    return "".join(f"{name}\n" for name in classes)


def classes_beside(manifest: Path, given: Sequence[str] | None) -> Sequence[str] | None:
    """The classes to read a manifest with: those of the file beside it, else the given ones.

    Raises:
        ManifestError: the file is wrong (see `read_class_list`), or differs from `given`. The same names in
            another order differ too: an index would mean another class.
    """
    path = manifest.parent / CLASS_LIST_NAME
    if not path.is_file():
        return given
    own = read_class_list(path)
    if given is None or tuple(given) == own:
        return own
    shared = min(len(own), len(given))
    at = next((index for index in range(shared) if own[index] != given[index]), shared)
    here = repr(own[at]) if at < len(own) else "missing"
    there = repr(given[at]) if at < len(given) else "missing"
    reason = (
        f"class {at} is {here} here, but {there} in the class list of the checkpoint or training set "
        f"({len(own)} classes here, {len(given)} there); use data of the same classes, or take {CLASS_LIST_NAME} "
        "away to match the manifest's labels by name"
    )
    raise ManifestError(path, at + 1, reason)
