from __future__ import annotations

import pytest
import torch

from emim.errors import ClipSizeError, UnknownNameError
from emim.models import create_model
from emim.motion import motion_field
from emim.nn.affinity import affinity_of, emim_blocks, soft_displacement


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("uniformer_tiny_emim", 5)


def test_every_block_has_a_field_on_its_grid(model: torch.nn.Module) -> None:
    fields = motion_field(model, torch.randn(2, 3, 5, 64, 100))
    assert list(fields) == ["blocks3.0.attn", "blocks4.0.attn"]
    for name, grid in (("blocks3.0.attn", (8, 12)), ("blocks4.0.attn", (4, 6))):
        assert fields[name].displacement_BT2HW.shape == (2, 5, 2, *grid)
        assert fields[name].confidence_BTHW.shape == (2, 5, *grid)
        assert bool(((fields[name].confidence_BTHW >= 0) & (fields[name].confidence_BTHW <= 1)).all())


def test_the_last_frame_repeats_the_pair_before_it(model: torch.nn.Module) -> None:
    field = motion_field(model, torch.randn(1, 3, 4, 64, 64))["blocks3.0.attn"]
    torch.testing.assert_close(field.displacement_BT2HW[:, 2], field.displacement_BT2HW[:, 3])


def test_displacements_are_in_pixels_of_the_clip(model: torch.nn.Module) -> None:
    clip = torch.randn(1, 3, 3, 64, 100)  # 100 is no multiple of the token's 8 pixels
    name, block = next(iter(emim_blocks(model).items()))
    with torch.inference_mode():
        tokens, _ = soft_displacement(affinity_of(model.eval(), clip, {name: block})[name], block.rpb)
    field = motion_field(model, clip, blocks=[name])[name]
    torch.testing.assert_close(field.displacement_BT2HW, 8 * tokens.mean(1).permute(0, 1, 4, 2, 3))


def test_the_mean_is_that_of_the_heads(model: torch.nn.Module) -> None:
    clip = torch.randn(1, 3, 3, 64, 64)
    name = "blocks3.0.attn"
    heads = [motion_field(model, clip, blocks=[name], head=head)[name].displacement_BT2HW for head in range(3)]
    mean = motion_field(model, clip, blocks=[name])[name].displacement_BT2HW
    torch.testing.assert_close(torch.stack(heads).mean(0), mean)


def test_a_field_of_certain_tokens_is_sure_and_of_equal_ones_is_not(model: torch.nn.Module) -> None:
    name, block = next(iter(emim_blocks(model).items()))
    saved = block.qkv.weight.detach().clone()
    with torch.no_grad():
        block.qkv.weight.zero_()
        flat = motion_field(model, torch.randn(1, 3, 3, 64, 64), blocks=[name])[name]
        block.qkv.weight.copy_(saved * 30)
        sharp = motion_field(model, torch.randn(1, 3, 3, 64, 64), blocks=[name], head=0)[name]
        block.qkv.weight.copy_(saved)
    torch.testing.assert_close(flat.confidence_BTHW, torch.zeros_like(flat.confidence_BTHW), atol=1e-5, rtol=0)
    assert sharp.confidence_BTHW.mean() > 0.9


def test_the_network_is_left_as_it_was(model: torch.nn.Module) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    motion_field(model, torch.randn(1, 3, 3, 64, 64))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_errors_name_what_there_is(model: torch.nn.Module) -> None:
    clip = torch.randn(1, 3, 3, 64, 64)
    with pytest.raises(UnknownNameError, match=r"no EMIM block 'blocks3\.0'; did you mean 'blocks3\.0\.attn'"):
        motion_field(model, clip, blocks=["blocks3.0"])
    with pytest.raises(UnknownNameError, match="this UniFormer has no EMIM block"):
        motion_field(create_model("uniformer_tiny", 3), clip)
    with pytest.raises(IndexError, match="heads 0 to 2"):
        motion_field(model, clip, blocks=["blocks3.0.attn"], head=3)
    with pytest.raises(ClipSizeError, match="too small"):
        motion_field(model, clip[..., :8])
    with pytest.raises(ClipSizeError, match=r"must be \[B, 3, T, H, W\]"):
        motion_field(model, clip[0])


def test_a_still_clip_has_no_motion_less_that_of_a_still_one(model: torch.nn.Module) -> None:
    still = torch.randn(2, 3, 1, 64, 64).expand(-1, -1, 5, -1, -1)
    raw = motion_field(model, still)["blocks3.0.attn"].displacement_BT2HW
    less = motion_field(model, still, less_still=True)["blocks3.0.attn"].displacement_BT2HW
    assert raw.abs().max() > 0.1
    torch.testing.assert_close(less[:, 2], torch.zeros_like(less[:, 2]), atol=1e-4, rtol=0)
