from __future__ import annotations

import copy

import pytest
import torch

from emim.errors import ConfigError
from emim.models import create_model
from emim.training.memory import checkpoint_activations, clips_that_fit, free_bytes, least_room, saved_bytes

CLIP = (3, 4, 64, 64)


def really_saved(model: torch.nn.Module, batch: int) -> int:
    """Bytes that autograd holds after a real forward pass, parameters left out."""
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(batch, *CLIP))
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in held.items() if pointer not in own)


def test_the_estimate_is_what_a_pass_really_keeps() -> None:
    model = create_model("uniformer_tiny_emim", 5)
    before = copy.deepcopy(model.state_dict())
    estimate = saved_bytes(model, CLIP, mixed=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert estimate == pytest.approx(really_saved(model, 1), rel=0.02)
    assert 3 * estimate == pytest.approx(really_saved(model, 3), rel=0.05)


def test_16_bits_and_checkpointed_blocks_keep_less() -> None:
    model = create_model("uniformer_tiny_emim", 5)
    plain = saved_bytes(model, CLIP, mixed=False)
    assert saved_bytes(model, CLIP, mixed=True) < 0.9 * plain
    checkpoint_activations(model, (1, 1, 2, 2))
    assert saved_bytes(model, CLIP, mixed=False) < 0.4 * plain


def test_more_memory_fits_more_clips() -> None:
    model = create_model("uniformer_tiny_emim", 5)
    cpu = torch.device("cpu")
    fits = clips_that_fit(model, CLIP, room=free_bytes(cpu), mixed=False)
    per_clip = saved_bytes(model, CLIP, mixed=False)
    assert 0.4 * free_bytes(cpu) < fits * per_clip < free_bytes(cpu)
    assert clips_that_fit(model, CLIP, room=free_bytes(cpu), mixed=False, repeats=2) == pytest.approx(fits / 2, rel=0.2)
    assert clips_that_fit(model, (3, 64, 4096, 4096), room=free_bytes(cpu), mixed=False) == 1  # never less
    room = least_room(model, CLIP, mixed=False, repeats=2)
    assert clips_that_fit(model, CLIP, room=int(1.001 * room), mixed=False) == 2
    assert clips_that_fit(model, CLIP, room=int(0.999 * room), mixed=False) == 1


def test_checkpointed_blocks_change_no_number() -> None:
    torch.manual_seed(0)
    plain = create_model("uniformer_tiny_emim", 5, drop_path=0.3)
    saving = copy.deepcopy(plain)
    checkpoint_activations(saving, (1, 1, 2, 1))
    saving = copy.deepcopy(saving)  # as an average of the weights is made
    clip = torch.randn(2, *CLIP)
    for model in (plain, saving):
        torch.manual_seed(1)
        model.train()(clip).square().sum().backward()
    assert list(plain.state_dict()) == list(saving.state_dict())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, saving.get_parameter(name).grad), name
    for name, buffer in plain.named_buffers():  # running statistics are counted once
        assert torch.equal(buffer, saving.get_buffer(name)), name
    assert torch.equal(plain.eval()(clip), saving.eval()(clip))


def test_too_many_checkpointed_blocks_are_named() -> None:
    with pytest.raises(ConfigError, match="stage 3 has 2 blocks, cannot checkpoint 20"):
        checkpoint_activations(create_model("uniformer_tiny_emim", 5), (0, 0, 20, 0))
