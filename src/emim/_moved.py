"""Redirect the module paths of version 0.1 to their new places, with a warning. To be removed in version 0.3."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED = {
    "data.augment.crops": "data.augment.transforms",
    "data.batches": "data.loader",
    "data.prepare": "datasets.prepare",
    "data.prepare.annotations": "datasets.prepare.annotations",
    "data.prepare.diving48": "datasets.prepare.diving48",
    "data.prepare.folder": "datasets.prepare.provider",
    "data.prepare.hmdb51": "datasets.prepare.hmdb51",
    "data.prepare.kinetics": "datasets.prepare.kinetics",
    "data.prepare.listed": "datasets.prepare.provider",
    "data.prepare.locating": "datasets.prepare.locating",
    "data.prepare.output": "datasets.prepare.output",
    "data.prepare.something": "datasets.prepare.something",
    "data.prepare.ucf101": "datasets.prepare.ucf101",
    "data.read_ahead": "data.prefetch",
    "data.synthetic": "datasets.synthetic",
    "data.synthetic.classes": "datasets.synthetic.classes",
    "data.synthetic.displacement": "datasets.synthetic.render",
    "data.synthetic.motion": "datasets.synthetic.motion",
    "data.synthetic.options": "datasets.synthetic.classes",
    "data.synthetic.render": "datasets.synthetic.render",
    "data.synthetic.sprites": "datasets.synthetic.sprites",
    "data.synthetic.textures": "datasets.synthetic.textures",
    "data.synthetic.writer": "datasets.synthetic.writer",
    "data.upkeep": "datasets",
    "data.upkeep.doctor": "datasets.doctor",
    "data.upkeep.isolated": "isolation",
    "data.upkeep.missing_file": "data.manifest",
    "data.upkeep.reencode": "datasets.reencode",
    "data.upkeep.video_check": "datasets.video_check",
    "evaluation.diagnosis.bootstrap": "evaluation.diagnosis.statistics",
    "evaluation.diagnosis.clips": "evaluation.diagnosis.ablations",
    "evaluation.diagnosis.conclusion": "evaluation.diagnosis.diagnose",
    "evaluation.diagnosis.conditions": "evaluation.diagnosis.ablations",
    "evaluation.diagnosis.network": "evaluation.diagnosis.ablations",
    "evaluation.diagnosis.result": "evaluation.diagnosis.diagnose",
    "evaluation.diagnosis.swaps": "evaluation.diagnosis.statistics",
    "evaluation.logits_file": "evaluation.testing",
    "evaluation.recogniser": "inference.recogniser",
    "evaluation.stream": "inference.scoring",
    "evaluation.views": "inference.scoring",
    "files": "utils",
    "live": "inference.live",
    "live.backoff": "inference.live.capture",
    "live.capture": "inference.live.capture",
    "live.clip": "inference.live.clip",
    "live.clock": "inference.live.capture",
    "live.connection": "inference.live.connection",
    "live.frames": "inference.live.capture",
    "live.latency": "inference.live.predictor",
    "live.options": "inference.live.predictor",
    "live.predictor": "inference.live.predictor",
    "live.results": "inference.live.predictor",
    "live.ring": "inference.live.clip",
    "live.smoothing": "inference.live.predictor",
    "live.source": "inference.live.connection",
    "machine": "environment",
    "models.artifact": "models.trained_model",
    "models.bundled": "models.trained_model",
    "motion.accuracy": "motion.field",
    "motion.change": "motion.field",
    "motion.colours": "motion.drawing",
    "motion.relevance": "motion.explanation",
    "motion.sheet": "motion.explanation",
    "naming": "utils",
    "nn.attention": "nn.layers",
    "nn.depthwise": "nn.layers",
    "nn.feed_forward": "nn.layers",
    "nn.initialisation": "nn.layers",
    "ops.constants": "ops.common",
    "ops.fused": "ops.triton",
    "ops.fused.kernels": "ops.triton.cost_volume_kernels",
    "ops.fused.launch": "ops.triton.cost_volume",
    "ops.fused.motion_kernels": "ops.triton.motion_mlp_kernels",
    "ops.fused.motion_launch": "ops.triton.motion_mlp",
    "ops.fused.motion_op": "ops.triton.motion_mlp",
    "ops.fused.op": "ops.triton.cost_volume",
    "ops.fused.tiles": "ops.triton.tiles",
    "ops.layout": "ops.common",
    "ops.native": "ops.cpp",
    "ops.native.library": "ops.cpp.library",
    "ops.native.op": "ops.cpp.op",
    "ops.row_blocks": "ops.common",
    "ops.tracing": "ops.common",
    "ops.trial": "ops.backends",
    "processes": "distributed",
    "report.choice": "report.report",
    "report.class_rows": "report.tables",
    "report.confusion": "report.tables",
    "report.data_rows": "report.tables",
    "report.diagnosis_rows": "report.tables",
    "report.history": "training.run_folder",
    "report.intervals": "report.charts",
    "report.overlays": "motion.overlay",
    "report.own_clips": "training.run_folder",
    "report.run_folder": "training.run_folder",
    "report.settings": "report.tables",
    "report.thinned": "motion.overlay",
    "report.timing_rows": "report.tables",
    "report.words": "report.formatting",
    "report.writing": "report.page",
    "serve.refusal": "serve.settings",
    "serve.results": "serve.pictures",
    "training.activation_checkpointing": "training.memory",
    "training.logs": "training.run_folder",
    "training.matching": "training.photometric",
    "training.parameter_groups": "training.optimisation",
    "training.precision": "precision",
    "training.record": "training.run_folder",
    "training.saved": "training.run_folder",
    "training.schedule": "training.optimisation",
    "training.state": "training.callbacks",
}
"""New place of each old module, both without the leading "emim."."""


class _Redirect(MetaPathFinder, Loader):
    """Import hook: importing an old path gives the module that took its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == "emim" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = "emim." + MOVED[old.partition(".")[2]]
        warnings.warn(f"{old} has moved to {new}; the old path works until version 0.3", FutureWarning, stacklevel=2)
        sys.modules[old] = import_module(new)  # the import system returns what stands here


def install() -> None:
    """Add the hook; before the others, so that an old package that became another one is never loaded twice."""
    if not any(isinstance(finder, _Redirect) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Redirect())


def renamed(module: str, names: Mapping[str, tuple[str, Any]]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a module whose public names changed, so that old names work with a warning.

    Args:
        module: its `__name__`.
        names: for each old name the new one, in words, and the object.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, thing = names[name]
        warnings.warn(
            f"{module}.{name} is now {new}; the old name works until version 0.3", FutureWarning, stacklevel=2
        )
        return thing

    return find
