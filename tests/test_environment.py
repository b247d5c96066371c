from __future__ import annotations

import pytest
import torch

from emim.environment import resolve_device
from emim.errors import ConfigError


def test_the_device_is_the_one_that_is_named() -> None:
    best = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("auto") == resolve_device(None) == best
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:x", "", "cpu:-1"])
def test_other_names_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^--device must be auto, cpu, cuda or cuda:N, got '{name}'$"):
        resolve_device(name, option="--device")


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^device cuda:99: PyTorch finds (no|\d+) GPUs?; use cpu or auto$"):
        resolve_device("cuda:99")
