"""The columns of a manifest: what they are called, and which one holds what."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from emim.data.class_list import shortened
from emim.errors import ConfigError, ManifestError
from emim.utils import nearest

__all__ = [
    "EXPECTED",
    "REQUIRED",
    "ROLES",
    "SYNONYMS",
    "chosen_position",
    "column_key",
    "find_roles",
    "hint",
    "is_number",
    "names_roles",
    "parse_columns",
]

ROLES = ("path", "label", "start", "end", "split", "group")
REQUIRED = ("path", "label")
EXPECTED = "path,label[,start,end][,split][,group]"

_START = "start begin from onset tstart"
_END = "end stop finish to offset tend"
_TIMES = ("time", "times", "sec", "secs", "seconds", "timestamp", "s")

SYNONYMS: dict[str, tuple[frozenset[str], ...]] = {
    "path": (
        frozenset({"path"}),
        frozenset(["videopath", "filepath", "clippath", "pathname", "videofilepath", "framepath", "framespath"]),
        frozenset(
            [
                "file",
                "filename",
                "video",
                "videofile",
                "videofilename",
                "videoname",
                "clip",
                "clipname",
                "clipfile",
                "videos",
                "files",
                "clips",
                "framefolder",
                "framedir",
                "framesdir",
                "folder",
            ]
        ),
    ),
    "label": (
        frozenset(
            [
                "label",
                "labels",
                "labelname",
                "labeltext",
                "class",
                "classname",
                "classes",
                "category",
                "categoryname",
                "action",
                "actionname",
                "actionlabel",
                "activity",
                "activityname",
                "gesture",
                "gesturename",
                "target",
                "tag",
                "classlabel",
            ]
        ),
        frozenset(
            ["labelid", "labelindex", "classid", "classindex", "categoryid", "actionid", "activityid", "targetid"]
        ),
    ),
    "start": (
        frozenset({"start"}),
        frozenset([*_START.split()[1:], *(a + b for a in _START.split() for b in _TIMES)])
        | {"timestart", "timebegin", "tstart"},
        frozenset({"startms", "beginms"}),
        frozenset({"startframe", "framestart", "beginframe", "startidx", "startindex"}),
    ),
    "end": (
        frozenset({"end"}),
        frozenset([*_END.split()[1:], *(a + b for a in _END.split() for b in _TIMES)])
        | {"timeend", "timestop", "tend"},
        frozenset({"endms", "stopms"}),
        frozenset({"endframe", "frameend", "stopframe", "endidx", "endindex"}),
    ),
    "split": (frozenset({"split"}), frozenset({"subset", "partition", "set", "usage", "splitname"})),
    "group": (frozenset({"group", "groups", "groupid", "groupname"}),),
}
"""Names of columns by what they hold, the most certain ones first; upper case, spaces and punctuation do not count."""

_UNNAMED = re.compile(r"(unnamed: *[0-9_.level ]+)?", re.IGNORECASE)
_MAX_LISTED = 8


def parse_columns(text: str | None) -> dict[str, str]:
    """`path=video_path,label=class` as a dictionary from role to column.

    A column is a name of the header, or a number from 1. An empty one (`split=`) is not to be used.

    Raises:
        ConfigError: it is not of this form, or a role is unknown or given twice.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(","):
        role, separator, column = part.partition("=")
        role = role.strip().lower()
        if not part.strip():
            continue
        if not separator:
            raise ConfigError(f"columns {text!r}: {part.strip()!r} must be ROLE=COLUMN, such as path=video_path")
        if role not in ROLES:
            raise ConfigError(f"columns {text!r}: unknown role {role!r}; {nearest(role, ROLES)}")
        if role in columns:
            raise ConfigError(f"columns {text!r}: {role} is given twice")
        columns[role] = column.strip()
    return columns


def names_roles(fields: Sequence[str], chosen: Mapping[str, str]) -> bool:
    """True if a record names columns for path and label, by their synonyms or as chosen."""
    keys = {column_key(value) for value in fields}
    named = {
        role: column_key(chosen[role]) in keys if chosen.get(role) else any(keys & tier for tier in SYNONYMS[role])
        for role in REQUIRED
    }
    return any(named.values()) and all(named[role] or is_number(chosen.get(role, "")) for role in REQUIRED)


def is_number(column: str) -> bool:
    """True for the number of a column, from 1 to 999."""
    return re.fullmatch(r"[1-9][0-9]{0,2}", column) is not None


def column_key(name: str) -> str:
    """A column's name as it is looked up: without upper case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def find_roles(
    source: Path, number: int, header: list[str], chosen: Mapping[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Positions of the columns by role, and remarks on those with another name and those that are not used.

    Raises:
        ManifestError: a column is missing, or several may be the one, or one is misspelt.
    """
    keys = [column_key(name) for name in header]
    roles = {role: chosen_position(source, number, header, role, column) for role, column in chosen.items() if column}
    for role in ROLES:
        if role not in chosen:
            position = _named_position(source, number, header, keys, role, set(roles.values()))
            if position is not None:
                roles[role] = position
    for role in REQUIRED:
        if role not in roles:
            shown = shortened(",".join(header))
            reason = f"column {role!r} is missing from the header {shown}; expected {EXPECTED}, or {hint(header)}"
            raise ManifestError(source, number, reason)
    for role, position in roles.items():
        other = next((one for one, place in roles.items() if place == position and one != role), None)
        if other is not None:
            raise ManifestError(source, number, f"column {header[position]!r} is both {other} and {role}")
    named = [f"{shortened(header[place])} as {role}" for role, place in roles.items() if keys[place] != role]
    remarks = [f"column {', '.join(named)}"] if named else []
    return roles, remarks + _unused(source, number, header, roles, chosen)


def _unused(
    source: Path, number: int, header: list[str], roles: dict[str, int], chosen: Mapping[str, str]
) -> list[str]:
    """A remark on columns that are not used.

    Raises:
        ManifestError: one of them looks like a misspelt name.
    """
    unused = [name for place, name in enumerate(header) if place not in roles.values()]
    for name in unused:
        for role in ROLES:
            if role not in roles and role not in chosen and get_close_matches(column_key(name), [role], cutoff=0.8):
                reason = f"unknown column {shortened(name)}; did you mean {role!r}? If not, say so: --columns {role}="
                raise ManifestError(source, number, reason)
    plain = [name for name in unused if not _UNNAMED.fullmatch(name)]
    remarks = ["column without a name not used"] if len(plain) < len(unused) else []
    if plain:
        more = f" and {len(plain) - _MAX_LISTED} more" if len(plain) > _MAX_LISTED else ""
        remarks.append(f"not used: {', '.join(map(shortened, plain[:_MAX_LISTED]))}{more}")
    return remarks


def chosen_position(source: Path, number: int, header: list[str], role: str, column: str) -> int:
    """The position of a column that the user has chosen by name or number.

    Raises:
        ManifestError: there is none, or more than one.
    """
    matches = [place for place, name in enumerate(header) if name == column]
    if not matches and column_key(column):
        matches = [place for place, name in enumerate(header) if column_key(name) == column_key(column)]
    if not matches and is_number(column) and int(column) <= len(header):
        matches = [int(column) - 1]
    if len(matches) != 1:
        found = "occurs more than once in" if matches else "is missing from"
        shown = shortened(",".join(header))
        raise ManifestError(source, number, f"column {column!r}, chosen as {role}, {found} the header {shown}")
    return matches[0]


def _named_position(
    source: Path, number: int, header: list[str], keys: list[str], role: str, taken: set[int]
) -> int | None:
    for tier in SYNONYMS[role]:
        hits = [place for place, key in enumerate(keys) if key in tier and place not in taken]
        if len(hits) == 1:
            return hits[0]
        if hits and len({keys[place] for place in hits}) == 1:
            shown = shortened(",".join(header))
            raise ManifestError(source, number, f"column {header[hits[0]]!r} occurs twice in the header {shown}")
        if hits:
            names = " and ".join(shortened(header[place]) for place in hits[:_MAX_LISTED])
            reason = f"columns {names} may all be the {role}; choose one with --columns {role}={header[hits[0]]}"
            raise ManifestError(source, number, reason)
    return None


def hint(header: Sequence[str]) -> str:
    """A clause for error messages: how to name the columns."""
    names = [name for name in header if name and len(name) < 40 and name.isprintable()]
    return f"name the columns, such as --columns path={(names or ['NAME'])[0]},label={(names or ['NAME'])[-1]}"
