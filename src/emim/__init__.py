"""Motion-aware video action recognition.

    >>> import emim
    >>> model = emim.create_model("uniformer_small_emim", num_classes=174)

The names below are loaded on first use, so that `import emim` and `emim --help` stay quick.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from emim import _moved

if TYPE_CHECKING:
    from emim.inference.recogniser import Recogniser
    from emim.models import create_model, list_models, load_checkpoint

__version__ = metadata.version("emim")

_moved.install()

_HOME = {
    "Recogniser": "emim.inference.recogniser",
    "create_model": "emim.models",
    "list_models": "emim.models",
    "load_checkpoint": "emim.models",
}

__all__ = ["Recogniser", "__version__", "create_model", "list_models", "load_checkpoint"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
