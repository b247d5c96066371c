"""Why a path leads nowhere: other upper and lower case, another extension, or no such folder."""

from __future__ import annotations

from pathlib import Path

from emim.data.manifest import relative_path

_PLAIN = "no such file"


def explain_missing(path: Path, root: Path) -> str:
    """One line on what lies close to a path at which there is nothing; paths are said relative to `root`."""
    here = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts
    respelled = False
    for number, part in enumerate(parts):
        if (here / part).exists():
            here /= part
            continue
        names = _names(here)
        same = sorted(name for name in names if name.casefold() == part.casefold())
        if same:
            here, respelled = here / same[0], True
            continue
        if number < len(parts) - 1:
            return f"no such file; there is no folder {relative_path(here / part, root)}"
        stem = Path(part).stem.casefold()
        kin = sorted(name for name in names if Path(name).stem.casefold() == stem)
        return f"no such file; with another extension there is {relative_path(here / kin[0], root)}" if kin else _PLAIN
    found = relative_path(here, root)
    return f"no such file; in other upper and lower case there is {found}" if respelled else _PLAIN


def _names(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()]
    except OSError:
        return []
