"""Motion-aware video action recognition.

    >>> import emim
    >>> recogniser = emim.Recogniser.load()  # the model that comes with the package
    >>> recogniser.predict("clip.mp4")  # doctest: +SKIP
    >>> model = emim.create_model("uniformer_small_emim", num_classes=174)

The names below are imported on first use, so that `import emim` and `emim --help` stay quick.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from emim import _moved
from emim.errors import *  # noqa: F403
from emim.errors import __all__ as _errors

if TYPE_CHECKING:
    from emim.data.video import open_video
    from emim.inference.recogniser import Recogniser
    from emim.models import create_model, list_models, load_checkpoint
    from emim.motion import motion_field, show
    from emim.nn import EMIM
    from emim.ops import cost_volume_attention

__version__ = metadata.version("emim")

_LAZY = {
    "EMIM": "emim.nn",
    "Recogniser": "emim.inference.recogniser",
    "cost_volume_attention": "emim.ops",
    "create_model": "emim.models",
    "list_models": "emim.models",
    "load_checkpoint": "emim.models",
    "motion_field": "emim.motion",
    "open_video": "emim.data.video",
    "show": "emim.motion",
}
"""Module of each public name that is imported on first use."""

__all__ = [
    "EMIM",
    "Recogniser",
    "__version__",
    "cost_volume_attention",
    "create_model",
    "list_models",
    "load_checkpoint",
    "motion_field",
    "open_video",
    "show",
]
__all__ += _errors

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
