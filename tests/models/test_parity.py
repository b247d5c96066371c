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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 2e-7)])
def test_logits_equal_the_published_ones(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    # The golden logits are float64 rounded to 7 digits: 2e-7 of the largest is their own precision.
    builder = load_builder()
    weights = {
        name: torch.from_numpy(np.array(value))
        for name, value in builder.state_dict(case["names"], case["seed"]).items()
    }
    path = tmp_path / "published.pth"
    torch.save({"model_state": weights}, path)
    model = emim.create_model(case["model"], num_classes=case["num_classes"]).to(dtype).eval()
    report = emim.load_checkpoint(model, path)
    assert report.coverage == 1.0
    assert not report.unexpected

    clip = torch.from_numpy(builder.clip(case["input_shape"], case["seed"])).to(dtype)
    with torch.inference_mode():
        logits = model(clip)
    golden = torch.tensor(case["logits"], dtype=torch.float64)
    error = (logits.double() - golden).abs().max() / golden.abs().max()
    assert error < tolerance
