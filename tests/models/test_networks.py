from __future__ import annotations

import pytest
import torch
from torch import nn

import emim
from emim.errors import ClipSizeError
from emim.nn import EMIM, SelfAttention


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("uniformer_small_emim", 21.421),
        ("uniformer_small", 21.284),
        ("uniformer_base_emim", 50.015),
        ("uniformer_base", 49.697),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = emim.create_model(name, num_classes=174)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_the_list_of_models() -> None:
    assert emim.list_models() == [
        "uniformer_base",
        "uniformer_base_emim",
        "uniformer_small",
        "uniformer_small_emim",
        "uniformer_tiny",
        "uniformer_tiny_emim",
    ]


@pytest.mark.parametrize("name", ["uniformer_small", "uniformer_small_emim"])
def test_emim_and_self_attention_alternate(name: str) -> None:
    with torch.device("meta"):
        model = emim.create_model(name)
    for stage in (model.blocks3, model.blocks4):
        for index, block in enumerate(stage):
            expected = EMIM if name.endswith("emim") and index % 2 == 0 else SelfAttention
            assert isinstance(block.attn, expected)


@pytest.mark.parametrize("name", ["uniformer_tiny", "uniformer_tiny_emim"])
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("clip", [(1, 32, 32), (4, 64, 32), (5, 50, 70)])
def test_any_clip_size(name: str, stem_stride: int, clip: tuple[int, int, int]) -> None:
    model = emim.create_model(name, num_classes=3, stem_stride=stem_stride).eval()
    T, H, W = clip
    x = torch.randn(2, 3, T, H, W)
    with torch.inference_mode():
        features = model.forward_features(x)
        logits = model(x)
    stride = model.spatial_stride
    assert features.shape == (2, model.num_features, -(-T // stem_stride), H // stride, W // stride)
    assert logits.shape == (2, 3)
    torch.testing.assert_close(model.forward_head(features), logits)


def test_a_published_network_takes_other_sizes() -> None:
    model = emim.create_model("uniformer_small_emim", num_classes=4).eval()
    with torch.inference_mode():
        assert model.forward_features(torch.randn(1, 3, 3, 64, 96)).shape == (1, 512, 3, 2, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 4, 31, 64), r"4 frames of 31 x 64 .* at least 1 frame of 32 x 32"),
        ((1, 1, 4, 64, 64), r"must be \[B, 3, T, H, W\], got \[1, 1, 4, 64, 64\]"),
        ((3, 4, 64, 64), r"got \[3, 4, 64, 64\]"),
    ],
)
def test_a_clip_that_cannot_be_taken_names_the_sizes(shape: tuple[int, ...], message: str) -> None:
    with torch.device("meta"):
        model = emim.create_model("uniformer_small_emim")
    with pytest.raises(ClipSizeError, match=message):
        model(torch.empty(shape, device="meta"))


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = emim.create_model("uniformer_tiny_emim", num_classes=3, drop_path=0.1)
    model(torch.randn(2, 3, 4, 64, 64)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


def test_drop_path_grows_linearly_and_is_off_in_evaluation() -> None:
    model = emim.create_model("uniformer_tiny_emim", num_classes=3, drop_path=0.7)
    blocks = [block for stage in range(1, 5) for block in getattr(model, f"blocks{stage}")]
    steps = len(blocks) - 1
    assert [b.drop_path.rate for b in blocks] == pytest.approx([0.7 * i / steps for i in range(steps + 1)])
    x = torch.randn(1, 3, 2, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_stage_widths_are_checked() -> None:
    with pytest.raises(emim.errors.ConfigError, match="four stages"):
        emim.create_model("uniformer_tiny", depths=(1, 1))


def test_the_emim_module_drops_into_another_network() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = EMIM(dim=32, num_heads=2, window=5)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens + self.attn(tokens, (4, 6, 6))

    assert Other()(torch.randn(2, 4 * 6 * 6, 32)).shape == (2, 144, 32)


def test_importing_the_package_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import emim, sys; assert 'torch' not in sys.modules; emim.list_models; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_clips_of_a_batch_run_apart_and_say_the_same() -> None:
    torch.manual_seed(0)
    model = emim.create_model("uniformer_tiny_emim", num_classes=3).eval()
    batches: list[int] = []
    model.patch_embed1.register_forward_hook(lambda module, args, output: batches.append(len(args[0])))
    large, small = torch.randn(2, 3, 7, 224, 224), torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        together, apart = model(large), torch.cat([model(clip[None]) for clip in large])
        model(small)
    assert batches == [1, 1, 1, 1, 2]
    assert torch.equal(together, apart)
