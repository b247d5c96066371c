"""Class names: the file `classes.txt` beside a manifest, and checks of names that can hardly be meant.

A manifest alone does not say which classes exist besides those of its rows, nor their order. Where the file
`classes.txt` lies in the manifest's folder, it does: UTF-8, one name a line, in index order; blank lines at the end
are ignored. Names are compared in Unicode's composed form (NFC), so that "größe" is one class however it was typed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from emim.errors import DataError, ManifestError

__all__ = [
    "CLASS_LIST_NAME",
    "PATH_LIMIT",
    "class_list_text",
    "classes_beside",
    "clipped",
    "composed",
    "doubtful_name",
    "invisible_character",
    "needs_class_list",
    "read_class_list",
    "same_but_for_case",
    "shortened",
]

CLASS_LIST_NAME = "classes.txt"

_MAX_NAME = 255
_SHOWN = 60
PATH_LIMIT = 300
# How spreadsheets and pandas write a cell without a value.
_MISSING = frozenset({"nan", "<na>", "nat", "none", "null", "nil", "n/a", "#n/a", "na", "#ref!", "#value!", "#name?"})
# Letters and symbols by Unicode's categories that are drawn as nothing.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# Joiners: Persian, Hindi and emoji need them within a word.
_JOINERS = frozenset("\u200c\u200d")


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def clipped(text: str, limit: int = _SHOWN) -> str:
    """A value for an error message, cut to its first characters; paths have a limit of their own."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def shortened(text: str) -> str:
    """A value in quotes for an error message, cut to 60 characters."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"


def invisible_character(name: str) -> str | None:
    """Code and Unicode name of the first character of a name that cannot be seen; None without one."""
    if name.isascii() and name.isprintable():
        return None
    for position, letter in enumerate(name):
        inside = 0 < position < len(name) - 1
        if letter in _BLANK or (unicodedata.category(letter) in ("Cc", "Cf") and not (letter in _JOINERS and inside)):
            return f"U+{ord(letter):04X} ({unicodedata.name(letter, 'a control character').lower()})"
    return None


def doubtful_name(name: str) -> str | None:
    """The reason why a label can hardly be meant as a class name; None where nothing speaks against it."""
    if len(name) > _MAX_NAME:
        return f"has {len(name):,} characters"
    hidden = invisible_character(name)
    if hidden is not None:
        return f"holds the invisible character {hidden}"
    if name.casefold() in _MISSING:
        return "reads like a missing value"
    if name.startswith(".") or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        return "reads like a path"
    return None


def same_but_for_case(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that differ in upper and lower case or spaces alone; None without such a pair."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(" ".join(name.casefold().split()), name)
        if first != name:
            return first, name
    return None


def needs_class_list(classes: Sequence[str]) -> bool:
    """True if a manifest of these classes reads back only with `classes.txt` beside it."""
    if any(map(doubtful_name, classes)) or same_but_for_case(classes) or any(composed(n) != n for n in classes):
        return True
    numbers = all(re.fullmatch(r"-?[0-9]+(\.0+)?", name) for name in classes)
    return numbers and list(classes) != [str(index) for index in range(len(classes))]


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
        if first_line.setdefault(composed(name), number) != number:
            reason = f"class {shortened(name)} is already in row {first_line[composed(name)]}"
            raise ManifestError(source, number, reason)
    return tuple(names)


def class_list_text(classes: Sequence[str]) -> str:
    """The content of a class list file.

    Raises:
        DataError: a name would not read back the same: empty, repeated, with a line break or outer spaces.
    """
    seen: set[str] = set()
    for index, name in enumerate(classes):
        if not name or name != name.strip() or "\n" in name or "\r" in name:
            raise DataError(f"class {index}, {name!r}: a class name needs text, and no line break or outer spaces")
        if composed(name) in seen:
            raise DataError(f"class {index}, {name!r}: the name occurs twice in the class list")
        seen.add(composed(name))
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
    if given is None or [*map(composed, given)] == [*map(composed, own)]:
        return own if given is None else given
    shared = min(len(own), len(given))
    at = next((index for index in range(shared) if composed(own[index]) != composed(given[index])), shared)
    here = repr(own[at]) if at < len(own) else "missing"
    there = repr(given[at]) if at < len(given) else "missing"
    reason = (
        f"class {at} is {here} here, but {there} in the class list of the checkpoint or training set "
        f"({len(own)} classes here, {len(given)} there); use data of the same classes, or remove {CLASS_LIST_NAME} "
        "to match the manifest's labels by name"
    )
    raise ManifestError(path, at + 1, reason)
