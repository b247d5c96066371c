"""The bytes of a manifest as rows of named columns, in the ways that people and programs write such files.

What is understood, besides the plain form `path,label[,start,end][,split][,group]` in UTF-8:

- UTF-8 or UTF-16 with a byte order mark; the separators `,` `;` tab and `|`; a first line `sep=;`; comment lines
  that begin with `#`; a column without a name (pandas writes its index so) and commas at the ends of lines;
- other names for the columns (`SYNONYMS`), or those that the caller gives; further columns are not used;
- lists without a header: `path label`, `path,label`, `path number_of_frames label` (mmaction2, VideoMAE,
  PySlowFast), where a path may hold spaces.

Each deviation from the plain form is a remark of the `Table`. What has more than one meaning is an error.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emim.data.class_list import clipped, shortened
from emim.data.manifest_columns import (
    EXPECTED,
    REQUIRED,
    SYNONYMS,
    chosen_position,
    column_key,
    find_roles,
    hint,
    is_number,
    names_roles,
)
from emim.data.video import VIDEO_SUFFIXES, is_frame_folder
from emim.errors import ManifestError

__all__ = ["Table", "read_table"]

_SEPARATORS = (",", ";", "\t", "|")
_EMPTY = " \t\r\n,;|"
_SEPARATOR_NAMES = {"\t": "tab", " ": "space"}
_SEP_LINE = re.compile(r'"?sep=(.)"?,*', re.IGNORECASE)
_MAX_BYTES = 2**30


@dataclass
class Table:
    """Rows of a manifest.

    Attributes:
        roles: position in a row of each column that is used, by a name of `ROLES`.
        header: names of the columns as they are in the file; empty for a list without header.
        rows: line of the file, from 1, and fields of every row.
        separator: between fields; "" for a list that is cut at its last spaces.
        remarks: how the file differs from the plain form, in words.
        unit: "s", "ms" or "frame" for the columns start and end, where their names say so.
    """

    roles: dict[str, int]
    header: tuple[str, ...]
    rows: list[tuple[int, list[str]]]
    separator: str
    remarks: list[str] = field(default_factory=list)
    unit: dict[str, str] = field(default_factory=dict)

    def column_name(self, role: str) -> str:
        """The column of a role as the file names it, else by its number from 1."""
        position = self.roles[role]
        return self.header[position] if self.header else str(position + 1)


def read_table(source: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read the rows of a manifest.

    Args:
        source: the file.
        columns: role to column, see `parse_columns`; decides where given.

    Raises:
        ManifestError: the file cannot be read, or not understood; the message names the row where there is one.
    """
    text, remarks = _decode(source, _read_bytes(source))
    lines = _Lines(source, text)
    if lines.separator is not None:
        remarks.append(f"line sep={_separator_name(lines.separator)}")
    first = lines.first()
    if first is None:
        raise ManifestError(source, None, f"the file is empty; expected the header {EXPECTED}")
    chosen = dict(columns or {})
    table = _headed(source, lines, chosen) or _headless(source, lines, chosen)
    if not table.rows:
        raise ManifestError(source, None, "no rows after the header")
    if lines.comments:
        remarks.append(f"{lines.comments} comment line{'s' * (lines.comments > 1)} skipped")
    table.remarks = remarks + table.remarks
    return table


# --- bytes to text ---------------------------------------------------------------------------------


def _read_bytes(source: Path) -> bytes:
    try:
        if source.exists() and not source.is_file():
            kind = "is a folder" if source.is_dir() else "is no regular file"
            raise ManifestError(source, None, f"cannot be read: {kind}")
        with source.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestError(source, None, "no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ManifestError(source, None, f"cannot be read: {reason}") from error
    if len(content) > _MAX_BYTES:
        raise ManifestError(source, None, f"larger than {_MAX_BYTES // 2**20:,} MiB, so hardly a manifest")
    return content


def _decode(source: Path, content: bytes) -> tuple[str, list[str]]:
    if content.startswith(b"PK\x03\x04"):
        raise ManifestError(source, None, "is an archive or an Excel workbook; save it as CSV")
    if content.startswith(b"version https://git-lfs"):
        raise ManifestError(source, None, "is a Git LFS pointer; fetch the file itself with `git lfs pull`")
    encoding, remarks = "utf-8-sig", []
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    if encoding != "utf-8-sig":
        remarks.append(encoding.upper())
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        bad = f"byte 0x{content[error.start]:02x} is not {'UTF-8' if encoding == 'utf-8-sig' else encoding.upper()}"
        raise ManifestError(source, row, f"{bad}; save the file as UTF-8") from error
    nul = text.find("\0")
    if nul >= 0:
        row = text.count("\n", 0, nul) + 1
        raise ManifestError(source, row, "holds a NUL character, so it is no text; save the file as UTF-8 CSV")
    return text, remarks


class _Lines:
    """The lines of a file, each with its line break; comments and a `sep=` line are blank, so that numbers stay.

    Attributes:
        separator: that of a `sep=` line; None without one.
        comments: number of comment lines.
    """

    def __init__(self, source: Path, text: str) -> None:
        self.separator: str | None = None
        self.comments = 0
        self._folder = source.parent
        self._lines = list(io.StringIO(text, newline=""))
        if self._lines and (found := _SEP_LINE.fullmatch(self._lines[0].strip(" \r\n"))):
            self.separator = found[1]
            self._lines[0] = "\n"
        if any(line.lstrip().startswith("#") for line in self._lines):
            self._blank_comments()

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def first(self) -> str | None:
        """The first line that is not blank, without its line break."""
        return next((line.rstrip("\r\n") for line in self._lines if line.strip(_EMPTY)), None)

    def records(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields, without outer spaces, of each record that is not empty.

        Raises:
            csv.Error: quotes do not match, or a field is too long; the message begins with the line number.
        """
        reader = csv.reader(self._lines, delimiter=separator, strict=True, skipinitialspace=True)
        try:
            for fields in reader:
                values = [value.strip() for value in fields]
                if any(values):
                    yield reader.line_num, values
        except csv.Error as error:
            raise csv.Error(f"{reader.line_num} {error}") from error

    def _blank_comments(self) -> None:
        """Blank comment lines; a line is none within quotes, or where a file of that name exists."""
        within_quotes = False
        header: int | None = None
        for number, line in enumerate(self._lines):
            if not within_quotes and line.lstrip().startswith("#") and not self._names_a_file(line):
                self.comments += 1
                if header is None and all(map(str.isspace, self._lines[:number])) and _is_header_line(line):
                    header = number
                    continue
                self._lines[number] = "\n"
            elif line.count('"') % 2:
                within_quotes = not within_quotes
        if header is None:
            return
        after = next((line for line in self._lines[header + 1 :] if not line.isspace()), "")
        if _is_header_line(after):  # the comment repeats it
            self._lines[header] = "\n"
        else:
            self._lines[header] = self._lines[header].replace("#", "", 1)
            self.comments -= 1

    def _names_a_file(self, line: str) -> bool:
        heads = {line.strip().rsplit(" ", 1)[0]} | {line.strip().split(s, 1)[0].strip() for s in _SEPARATORS}
        return any(head != line.strip() and _is_clip(self._folder, head) for head in heads)


def _is_header_line(line: str) -> bool:
    return any(names_roles(line.lstrip("# \t").rstrip().split(separator), {}) for separator in (*_SEPARATORS, None))


# --- files with a header ---------------------------------------------------------------------------


def _headed(source: Path, lines: _Lines, chosen: dict[str, str]) -> Table | None:
    """The table of a file whose first record names its columns; None where it does not."""
    candidates = _first_records(lines)
    named = [separator for separator, fields in candidates.items() if names_roles(fields, chosen)]
    if named:
        separator = max(named, key=lambda one: len(candidates[one]))
        return _read_headed(source, lines, separator, chosen)
    first = lines.first() or ""
    if names_roles(first.split(), chosen) and lines.separator is None:
        return _read_spaced(source, lines, chosen)
    return None


def _first_records(lines: _Lines) -> dict[str, list[str]]:
    """Fields of the first record under each separator that is possible."""
    found = {}
    for separator in _SEPARATORS if lines.separator is None else (lines.separator,):
        try:
            record = next(lines.records(separator), None)
        except csv.Error:
            continue
        if record is not None:
            found[separator] = record[1]
    return found


def _read_headed(source: Path, lines: _Lines, separator: str, chosen: dict[str, str]) -> Table:
    records = lines.records(separator)
    try:
        number, header = next(records)
        while header and not header[-1]:  # commas at the end of the line
            header.pop()
        roles, remarks = find_roles(source, number, header, chosen)
        table = Table(roles, tuple(header), [], separator, remarks)
        width, repeated, trailing = len(header), 0, False
        for number, fields in records:
            if len(fields) > width and not any(fields[width:]):
                del fields[width:]
                trailing = True
            if len(fields) != width:
                raise ManifestError(source, number, _wrong_width(fields, header, separator))
            if fields == header:
                repeated += 1
            else:
                table.rows.append((number, fields))
    except csv.Error as error:
        number_text, _, reason = str(error).partition(" ")
        raise ManifestError(source, int(number_text), f"not valid CSV: {reason}") from error
    if separator != "," and lines.separator is None:
        table.remarks.insert(0, f"separator {_separator_name(separator)}")
    if trailing:
        table.remarks.append("empty fields at the ends of rows dropped")
    if repeated:
        table.remarks.append(f"{repeated} repeated header line{'s' * (repeated > 1)} skipped")
    _find_units(table)
    return table


def _wrong_width(fields: list[str], header: list[str], separator: str) -> str:
    return (
        f"{len(fields)} fields, but the header has {len(header)} ({clipped(separator.join(header))}); "
        f"put quotes around a value that contains a {'comma' if separator == ',' else _separator_name(separator)}"
    )


def _find_units(table: Table) -> None:
    for role in ("start", "end"):
        if role in table.roles and table.header:
            key = column_key(table.column_name(role))
            frames = key in SYNONYMS[role][3] or "frame" in key
            table.unit[role] = "frame" if frames else "ms" if key in SYNONYMS[role][2] else "s"
    if "frame" in table.unit.values() and "end" in table.roles:
        table.remarks.append("frames count from 0, the end is exclusive")


def _separator_name(separator: str) -> str:
    return _SEPARATOR_NAMES.get(separator, repr(separator))


# --- lists without a header, and lists cut at spaces -----------------------------------------------


def _headless(source: Path, lines: _Lines, chosen: dict[str, str]) -> Table:
    """The table of a list without header.

    Raises:
        ManifestError: the first line is neither a header nor a row of such a list, or may be read in several ways.
    """
    numbers = {role: int(column) for role, column in chosen.items() if is_number(column)}
    named = {role: column for role, column in chosen.items() if column and role not in numbers}
    if named:
        number, header = _guessed_header(lines)
        for role, column in named.items():
            chosen_position(source, number, header, role, column)
        raise _no_header(source, lines)
    if numbers:
        return _numbered(source, lines, numbers)
    tables = [_separated_list(source, lines, separator) for separator in _SEPARATORS]
    if lines.separator is None:
        tables += [_comma_list(source, lines), *_spaced_lists(source, lines)]
    found = [table for table in tables if table is not None]
    if not found:
        raise _no_header(source, lines)
    if len(found) > 1 and len({tuple(_paths_and_labels(table)) for table in found}) > 1:
        number = found[0].rows[0][0]
        ways = " or ".join(
            "path {} with label {}".format(*map(shortened, next(_paths_and_labels(table)))) for table in found[:2]
        )
        reason = f"may mean {ways}; write the file with a header path,label"
        raise ManifestError(source, number, reason)
    return found[0]


def _guessed_header(lines: _Lines) -> tuple[int, list[str]]:
    """Line number and fields of the first record, under the separator that gives most fields."""
    header = max(_first_records(lines).values(), key=len, default=[lines.first() or ""])
    number = next((place for place, line in enumerate(lines, start=1) if line.strip(_EMPTY)), 1)
    return number, header


def _no_header(source: Path, lines: _Lines) -> ManifestError:
    number, header = _guessed_header(lines)
    shown = shortened(",".join(header))
    clip = next((place for place, value in enumerate(header) if _is_clip(source.parent, value)), None)
    if clip is not None:
        reason = (
            f"no header, and {len(header)} columns ({shown}); add a header {EXPECTED}, or name the columns by number, "
            f"such as --columns path={clip + 1},label={2 if clip != 1 else 1}"
        )
        return ManifestError(source, number, reason)
    keys = {column_key(name) for name in header}
    role = next((role for role in REQUIRED if not any(keys & tier for tier in SYNONYMS[role])), "path")
    reason = (
        f"column {role!r} is missing from the header {shown}, and no field names a video, so it is no row of a list "
        f"without header; expected {EXPECTED}, or {hint(header)}"
    )
    return ManifestError(source, number, reason)


def _numbered(source: Path, lines: _Lines, numbers: dict[str, int]) -> Table:
    """A list whose columns are chosen by number."""
    missing = [role for role in REQUIRED if role not in numbers]
    if missing:
        raise ManifestError(source, None, f"column {missing[0]!r} is not chosen; give --columns path=1,label=2")
    candidates = _first_records(lines)
    separator = max(candidates, key=lambda one: len(candidates[one]), default=",")
    rows = _records(source, lines, separator)
    width = max(len(fields) for _, fields in rows)
    needed = {role: column for role, column in numbers.items() if role in REQUIRED or column > width}
    for number, fields in rows:
        if len(fields) < max(needed.values()):
            raise ManifestError(source, number, f"{len(fields)} fields, but column {max(needed.values())} is chosen")
        fields += [""] * (width - len(fields))
    remark = f"no header; columns by number, separator {_separator_name(separator)}"
    table = Table({role: column - 1 for role, column in numbers.items()}, (), rows, separator, [remark])
    if _is_clip(source.parent, rows[0][1][table.roles["path"]]) or len(rows) == 1:
        return table
    if _is_clip(source.parent, rows[1][1][table.roles["path"]]):  # the first row names the columns after all
        table.header = tuple(rows.pop(0)[1])
        table.remarks = [f"columns by number, separator {_separator_name(separator)}"]
    return table


def _records(source: Path, lines: _Lines, separator: str) -> list[tuple[int, list[str]]]:
    try:
        rows = list(lines.records(separator))
    except csv.Error as error:
        number, _, reason = str(error).partition(" ")
        raise ManifestError(source, int(number), f"not valid CSV: {reason}") from error
    for _, fields in rows:
        while fields and not fields[-1]:
            fields.pop()
    return rows


def _separated_list(source: Path, lines: _Lines, separator: str) -> Table | None:
    """A list `path,label` or `path,number of frames,label` with a separator; None where it is no such list."""
    first = _first_records(lines).get(separator, [])
    while first and not first[-1]:
        first.pop()
    clips = [place for place, value in enumerate(first) if _is_clip(source.parent, value)]
    if len(first) < 2 or not (clips or _is_counted(lines, separator)):
        return None
    try:
        rows = _records(source, lines, separator)
    except ManifestError:  # its quotes are parts of names
        return None
    if any(len(fields) != len(first) for _, fields in rows):
        return None
    path = clips[0] if clips else 0
    if len(first) == 2:
        return _list_table(rows, {"path": path, "label": 1 - path}, separator)
    if len(first) == 3 and path == 0 and all(_is_index(fields[1]) for _, fields in rows):
        return _list_table(rows, {"path": 0, "label": 2}, separator)
    return None


def _is_counted(lines: _Lines, separator: str | None) -> bool:
    """True if each line ends in one or two whole numbers: a list whose paths need not be of videos."""
    count = None
    for line in lines:
        if line.strip():
            fields = line.split(separator)
            if len(fields) not in (2, 3) or not all(_is_index(value.strip()) for value in fields[1:]):
                return False
            if _is_index(fields[0].strip()) or len(fields) != (count or len(fields)):
                return False
            count = len(fields)
    return True


def _comma_list(source: Path, lines: _Lines) -> Table | None:
    """A list `path,label` whose paths hold commas."""
    rows = _cut(lines, 1, ",")
    if not rows or not any("," in fields[0] for _, fields in rows):
        return None
    if not all(_is_clip(source.parent, fields[0]) for _, fields in rows):
        return None
    return _list_table(rows, {"path": 0, "label": 1}, "")


def _spaced_lists(source: Path, lines: _Lines) -> list[Table | None]:
    """The ways to read a list that is separated by spaces: `path label`, `path number_of_frames label`."""
    found: list[Table | None] = []
    counted = _is_counted(lines, None)
    for cuts, roles in ((1, {"path": 0, "label": 1}), (2, {"path": 0, "label": 2})):
        rows = _cut(lines, cuts, None)
        if rows is None or (cuts == 2 and not all(_is_index(fields[1]) for _, fields in rows)):
            continue
        first = lines.first() or ""
        if _is_clip(source.parent, rows[0][1][0]) or (counted and len(first.split()) == cuts + 1):
            found.append(_list_table(rows, roles, ""))
    return found


def _cut(lines: _Lines, cuts: int, separator: str | None) -> list[tuple[int, list[str]]] | None:
    """Each line cut at its last `cuts` separators, quotes around a path removed; None if a line has fewer."""
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = [value.strip() for value in line.strip().rsplit(separator, cuts)]
        if not line.strip():
            continue
        if len(fields) != cuts + 1 or not all(fields):
            return None
        if len(fields[0]) > 1 and fields[0][0] == fields[0][-1] == '"':
            fields[0] = fields[0][1:-1].replace('""', '"')
        rows.append((number, fields))
    return rows or None


def _list_table(rows: list[tuple[int, list[str]]], roles: dict[str, int], separator: str) -> Table:
    names = ["path, label" if roles["path"] < roles["label"] else "label, path"]
    if len(rows[0][1]) == 3:
        names = ["path, number of frames (not used), label"]
    if separator not in (",", ""):
        names.append(f"separator {_separator_name(separator)}")
    return Table(roles, (), rows, separator, [f"no header: {'; '.join(names)}"])


def _paths_and_labels(table: Table) -> Iterator[tuple[str, str]]:
    return ((fields[table.roles["path"]], fields[table.roles["label"]]) for _, fields in table.rows)


def _read_spaced(source: Path, lines: _Lines, chosen: dict[str, str]) -> Table:
    """A table with a header whose columns are separated by spaces; the first column may hold some."""
    header = (lines.first() or "").split()
    rows = _cut(lines, len(header) - 1, None)
    if rows is None or len(header) < 2:
        raise ManifestError(source, None, f"not every row has the {len(header)} fields of the header; use commas")
    number = rows[0][0]
    roles, remarks = find_roles(source, number, header, chosen)
    if any(position == 0 and role != "path" for role, position in roles.items()):
        raise ManifestError(source, number, "separated by spaces, but the first column is not the path; use commas")
    table = Table(roles, tuple(header), rows[1:], "", ["separator space", *remarks])
    _find_units(table)
    return table


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_clip(folder: Path, text: str) -> bool:
    """True if a field names a video, by its ending, or a file or folder of frames that exists."""
    if os.path.splitext(text)[1].lower() in VIDEO_SUFFIXES:  # noqa: PTH122
        return True
    path = os.path.join(folder, text)  # noqa: PTH118
    try:
        return bool(text) and (os.path.isfile(path) or is_frame_folder(path))  # noqa: PTH113
    except (OSError, ValueError):
        return False
