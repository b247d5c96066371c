"""A report as a file."""

from __future__ import annotations

from pathlib import Path

from emim.errors import ConfigError
from emim.files import whole_file
from emim.report.page import render
from emim.report.report import Report


def write_page(report: Report, path: Path) -> int:
    """Write the page; it appears whole or not at all.

    Returns:
        Its size in bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    # Names of files may hold bytes that are no text; the page shows a question mark for them.
    content = render(report).encode("utf-8", "replace")
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from error
    return len(content)
