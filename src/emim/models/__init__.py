"""Networks by name, and their weights."""

from __future__ import annotations

from emim.models.checkpoint import LoadReport, load_checkpoint
from emim.models.registry import create_model, list_models
from emim.models.uniformer import UniFormer

__all__ = ["LoadReport", "UniFormer", "create_model", "list_models", "load_checkpoint"]
