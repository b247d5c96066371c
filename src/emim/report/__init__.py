"""One self-contained HTML page about a run: what it was, how it went, what its network does on labelled clips."""

from __future__ import annotations

from emim.report.measurement import Measurement, measure
from emim.report.page import write_page
from emim.report.report import Report, gather

__all__ = ["Measurement", "Report", "gather", "measure", "write_page"]
