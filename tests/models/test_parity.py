"""The published network's logits, from the same weights and the same clip."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import emim
from backends_here import why_not
from emim.nn import EMIM
from emim.ops import BACKENDS

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
CASES = sorted(GOLDEN.glob("*.json"))

if not CASES:
    pytest.skip(f"no golden cases in {GOLDEN}", allow_module_level=True)


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text())


def published_model(case: dict[str, Any], dtype: torch.dtype, folder: Path) -> torch.nn.Module:
    weights = {
        name: torch.from_numpy(np.array(value))
        for name, value in load_builder().state_dict(case["names"], case["seed"]).items()
    }
    path = folder / "published.pth"
    torch.save({"model_state": weights}, path)
    model = emim.create_model(case["model"], num_classes=case["num_classes"]).to(dtype).eval()
    report = emim.load_checkpoint(model, path)
    assert report.coverage == 1.0
    assert not report.unexpected
    return model


def error_of_logits(model: torch.nn.Module, case: dict[str, Any], dtype: torch.dtype, clips: slice) -> float:
    """Of the largest golden logit."""
    clip = torch.from_numpy(load_builder().clip(case["input_shape"], case["seed"])).to(dtype)
    with torch.inference_mode():
        logits = model(clip[clips])
    golden = torch.tensor(case["logits"], dtype=torch.float64)[clips]
    return float((logits.double() - golden).abs().max() / golden.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 2e-7)])
def test_logits_equal_the_published_ones(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    # The golden logits are float64 rounded to 7 digits: 2e-7 of the largest is their own precision.
    model = published_model(case, dtype, tmp_path)
    assert error_of_logits(model, case, dtype, slice(None)) < tolerance


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_every_backend_gives_the_published_logits(case: dict[str, Any], backend: str, tmp_path: Path) -> None:
    if (reason := why_not(backend)) is not None:
        pytest.skip(reason)
    model = published_model(case, torch.float32, tmp_path)
    modules = [module for module in model.modules() if isinstance(module, EMIM)]
    assert modules
    for module in modules:
        module.backend = backend
    # One clip, as Triton's interpreter takes half a minute for it.
    assert error_of_logits(model, case, torch.float32, slice(1)) < 1e-5
