"""The picture of how cost grows: time above, peak memory below, one column for each size that is varied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emim.bench.scaling import MODULES, Result, ScalingReport
from emim.errors import ConfigError
from emim.utils import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable

_LABELS = {"emim": "EMIM", "attention": "global self-attention"}
# Marker and line differ too, so that the picture can be read without colour.
_STYLES = {
    "emim": {"color": "#0b5394", "marker": "o", "linestyle": "-"},
    "attention": {"color": "#b45f06", "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
}
_AXIS_LABELS = {
    "frames": "frames",
    "side": "tokens of a frame",
    "window": "window",
    "batch": "clips of a batch",
}
_ROWS: tuple[tuple[str, Callable[[Result], float | None]], ...] = (
    ("time, ms", lambda result: None if result.timing is None else result.timing.median_ms),
    ("peak memory, MiB", lambda result: None if result.memory is None else result.memory.peak_bytes / 2**20),
)


def plot_scaling(report: ScalingReport, file: Path) -> None:
    """Write the picture; the kind of file follows from its name.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    check_plotting(file)
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(result.axis for result in report.results))
    figure = Figure(figsize=(2.7 * len(axes) + 0.6, 5.4), layout="constrained")
    panels = figure.subplots(len(_ROWS), len(axes), squeeze=False, sharey="row")
    for row, (label, of) in enumerate(_ROWS):
        for column, axis in enumerate(axes):
            _panel(panels[row][column], report, axis, of)
            if column == 0:
                panels[row][column].set_ylabel(label)
            if row == len(_ROWS) - 1:
                panels[row][column].set_xlabel(_AXIS_LABELS[axis])
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    try:
        with atomic_write(file) as temporary:
            figure.savefig(temporary, dpi=110, format=file.suffix[1:])
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error


def check_plotting(file: Path) -> None:
    """Say before hours of measuring what would be missing after them.

    Raises:
        ConfigError: matplotlib is not installed, or the name does not end in .png, .svg or .pdf.
    """
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {file}: the name of a picture ends in .png, .svg or .pdf")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--plot {file}: needs matplotlib, pip install 'emim[plot]' ({error})") from error


def _panel(panel: Any, report: ScalingReport, axis: str, of: Callable[[Result], float | None]) -> None:
    values = report.values(axis)
    for module in MODULES:
        measured = [(value, figure) for value in values if (figure := of(report.at(axis, value, module))) is not None]
        panel.plot(
            [value for value, _ in measured],
            [figure for _, figure in measured],
            label=_LABELS[module],
            markersize=5,
            linewidth=1.4,
            **_STYLES[module],
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(values, [f"{value} x {value}" if axis == "side" else str(value) for value in values])
    panel.tick_params(labelsize=8)
    panel.minorticks_off()
    panel.margins(x=0.09)
    panel.grid(True, linewidth=0.4, alpha=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    left_out = [(value, module) for module in MODULES for value in values if of(report.at(axis, value, module)) is None]
    # Curves rise, so that the lower right corner is free.
    for height, (value, module) in enumerate(reversed(left_out)):
        panel.text(
            0.99, 0.02 + 0.07 * height, f"{_LABELS[module]}, {value}: not run",
            transform=panel.transAxes, ha="right", va="bottom", fontsize=7, color=_STYLES[module]["color"],
        )  # fmt: skip
