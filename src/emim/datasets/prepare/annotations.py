"""Find and read annotation files; every error names the file, and the line where there is one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emim.errors import DataError

__all__ = [
    "ANNOTATION_FOLDERS",
    "bare_name",
    "class_index",
    "find_file",
    "not_found",
    "read_class_names",
    "read_json",
    "read_lines",
    "read_records",
    "read_text",
]

ANNOTATION_FOLDERS = (".", "annotations", "labels")
_MAX_NAMED = 6


def find_file(root: Path, names: Sequence[str], folders: Sequence[str] = ANNOTATION_FOLDERS) -> Path | None:
    """The first of `names` in the first of `folders` of `root` that exists; None without any."""
    candidates = (root / folder / name for name in names for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


def not_found(root: Path, what: str, names: Sequence[str], folders: Sequence[str] = ANNOTATION_FOLDERS) -> DataError:
    """The error for missing annotations; names the files looked for and the folders searched."""
    listed = ", ".join(names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more names" if len(names) > _MAX_NAMED else ""
    where = " or ".join(folder if folder != "." else "the folder itself" for folder in folders)
    if not root.is_dir():
        return DataError(f"{root}: no such folder; give the data set's folder")
    return DataError(f"{root}: no {what}; looked for {listed}{more} in {where}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; download the file again") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without outer spaces) of every line that is not blank."""
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); download the file again") from error


def read_records(path: Path, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position from 0, entry) of a JSON list of objects that have all of `keys`.

    Raises:
        DataError: it is no such list.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of objects with {', '.join(keys)}")
    for position, record in enumerate(content):
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise DataError(f"{path}: entry {position} has no {missing[0]!r}; expected {', '.join(keys)}")
        yield position, record


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names in index order, in any of the ways such files are written.

    - JSON: an object from name to index, as number or text (Something-Something's `labels.json`).
    - Text: one name a line, or `name<TAB>index`, or a CSV with the header `id,name`.

    Brackets (`[something]`) and quotes around a name are taken off.

    Raises:
        DataError: it is none of these, or the indices are not 0..n-1.
    """
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: expected an object from class name to index")
        pairs = [(str(name), str(index)) for name, index in content.items()]
    else:
        lines = [line for _, line in read_lines(path)]
        if lines and lines[0].lower() == "id,name":
            rows = list(csv.reader(io.StringIO("\n".join(lines[1:]))))
            pairs = [(",".join(row[1:]), row[0]) for row in rows]
        elif lines and all("\t" in line for line in lines):
            pairs = [(name, index) for name, _, index in (line.rpartition("\t") for line in lines)]
        else:
            pairs = [(line, str(number)) for number, line in enumerate(lines)]
    by_index: dict[int, str] = {}
    for name, index in pairs:
        if not index.strip().isdigit() or int(index) in by_index:
            raise DataError(f"{path}: class {name!r} has index {index!r}; expected every index from 0 once")
        by_index[int(index)] = bare_name(name)
    if sorted(by_index) != list(range(len(by_index))) or not by_index:
        raise DataError(f"{path}: the indices of its {len(by_index)} classes are not 0 to {len(by_index) - 1}")
    names = tuple(by_index[index] for index in range(len(by_index)))
    repeated = next((name for name in names if not name or names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: class name {repeated!r} is empty or occurs twice")
    return names


def bare_name(name: str) -> str:
    """A class name without the brackets of its slots and without quotes around it."""
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('""', '"').strip()
    return name.replace("[", "").replace("]", "")


def class_index(index_of: dict[str, int], name: str, path: Path, where: str, class_file: Path) -> int:
    """The index of a class name.

    Raises:
        DataError: the class list does not have it.
    """
    index = index_of.get(name)
    if index is None:
        raise DataError(f"{path}, {where}: class {name!r} is not one of the {len(index_of)} classes of {class_file}")
    return index
