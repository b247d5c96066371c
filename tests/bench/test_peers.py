"""The candidates of `emim bench`: those that claim the definition's values have them, the others do what they state."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import videomae
from emim.bench.op import wrong_values
from emim.bench.peers import OpPeer, OpProblem
from emim.bench.peers_installed import op_peers, published_kernels
from emim.errors import ConfigError
from emim.ops import BACKENDS, cost_volume_attention
from networks import NETWORKS, ClipProblem

SMALL = OpProblem(batch=2, heads=2, frames=3, height=5, width=6, head_width=8, window=3)
NOT_OURS = [name for name in op_peers() if name not in BACKENDS]


@pytest.mark.parametrize("layout", ["contiguous", "projection"])
@pytest.mark.parametrize("name", [name for name, peer in op_peers().items() if peer.same_values])
def test_claimed_values_are_the_definitions(name: str, layout: str) -> None:
    problem = OpProblem(2, 2, 3, 5, 6, 8, 3, layout=layout)
    peer = op_peers()[name]
    if (reason := peer.why_not(problem, "cpu", False)) is not None:
        pytest.skip(reason)
    assert wrong_values(peer, peer.make(problem), problem, problem.inputs("cpu")) is None


def test_one_frame_is_paired_with_itself() -> None:
    problem = OpProblem(1, 2, 1, 4, 4, 8, 3)
    peer = op_peers()["unfold"]
    assert wrong_values(peer, peer.make(problem), problem, problem.inputs("cpu")) is None


def test_wrong_values_are_found() -> None:
    def off_by_a_little(q, k, v, rpb):
        context, affinity = cost_volume_attention(q, k, v, rpb, return_affinity=True)
        return {"context": context + 0.01, "affinity": affinity}

    peer = OpPeer("wrong", lambda problem: off_by_a_little, same_values=True)
    reason = wrong_values(peer, off_by_a_little, SMALL, SMALL.inputs("cpu"))
    assert reason == "its context is wrong: it differs from the definition's by up to 0.01"


def test_gradients_of_unfold_are_the_definitions() -> None:
    torch.manual_seed(0)
    leaves = [x.double().requires_grad_() for x in SMALL.inputs("cpu")]
    expected = cost_volume_attention(*leaves, backend="reference", return_affinity=True)
    outputs = op_peers()["unfold"].make(SMALL)(*leaves)
    found = (outputs["context"], outputs["affinity"])
    weights = [torch.randn_like(x) for x in found]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, weights), torch.autograd.grad(expected, leaves, weights),
        rtol=1e-5, atol=1e-6,  # its softmax is in float32
    )  # fmt: skip


def test_bare_products_are_two_products() -> None:
    q, k, v, rpb = SMALL.inputs("cpu")
    outputs = op_peers()["bare-products"].make(SMALL)(q, k, v, rpb)
    pairs = torch.einsum("bnthwd,bntyxd->bnthwyx", q, k)
    torch.testing.assert_close(outputs["affinity"].flatten(), pairs.flatten())
    torch.testing.assert_close(outputs["context"], torch.einsum("bnthwyx,bntyxd->bnthwd", pairs, v))


def test_global_attention_looks_at_every_token() -> None:
    q, k, v, rpb = SMALL.inputs("cpu")
    pairs = torch.einsum("bnthwd,bnsyxd->bnthwsyx", q, k) * SMALL.head_width**-0.5
    weight = pairs.flatten(5).softmax(-1).view(pairs.shape)
    expected = torch.einsum("bnthwsyx,bnsyxd->bnthwd", weight, v)
    torch.testing.assert_close(op_peers()["global-sdpa"].make(SMALL)(q, k, v, rpb)["context"], expected)


@pytest.mark.slow  # it is compiled
def test_flex_attention_has_our_values_where_the_window_lies_in_the_frame() -> None:
    _same_inside("flex-attention", with_bias=True)


def test_natten_has_our_values_where_the_window_lies_in_the_frame() -> None:
    _same_inside("natten", with_bias=False)


def _same_inside(name: str, *, with_bias: bool) -> None:
    problem = OpProblem(2, 2, 3, 6, 8, 16, 3)
    peer = op_peers()[name]
    if (reason := peer.why_not(problem, "cpu", False)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    q, k, v, rpb = problem.inputs("cpu")
    rpb = rpb * with_bias
    with torch.no_grad():
        found = peer.make(problem)(q, k, v, rpb)["context"]
        expected = cost_volume_attention(q, k, v, rpb, backend="reference")
    inside = (slice(None), slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, expected, atol=1e-4)  # at borders they differ, as stated


@pytest.mark.parametrize(
    ("name", "backward", "reason"),
    [
        ("flex-attention", True, "no backward pass on CPUs"),
        ("published-cuda", False, "--published-source"),
        ("natten", True, "no backward pass on CPUs" if find_spec("natten") else "not installed"),
    ],
)
def test_reasons_for_skipping(name: str, backward: bool, reason: str) -> None:
    assert reason in (op_peers()[name].why_not(SMALL, "cpu", backward) or "")


def test_triton_is_not_timed_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "interpreter" in (op_peers()["triton"].why_not(SMALL, "cpu", False) or "")


def test_packages_that_are_missing_old_or_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packages of these names that cannot be what is wanted, first on the path of imports."""
    import sys

    for name in ("natten", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(
            f"{'emim.bench.peers_installed' if name == 'natten' else 'videomae'}.find_spec", lambda _: None
        )
    assert "not installed" in (op_peers()["natten"].why_not(SMALL, "cpu", False) or "")
    assert "not installed" in (videomae.why_not(frames=16, size=224) or "")
    monkeypatch.undo()

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "natten.py").write_text("")
    (tmp_path / "natten-0.17.5.dist-info").mkdir()
    (tmp_path / "natten-0.17.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: natten\nVersion: 0.17.5\n"
    )
    for name in ("natten", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert op_peers()["natten"].why_not(SMALL, "cpu", False) == "natten 0.17.5 is installed; this adapter is for 0.21"
    (tmp_path / "transformers.py").write_text("import a_module_that_is_not_there")
    assert "a_module_that_is_not_there" in (videomae.why_not(frames=16, size=224) or "")


def test_published_kernels_need_their_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        published_kernels(tmp_path / "nowhere").why_not(SMALL, "cpu", False)
    for name in ("nattenqkrpb_cuda.cpp", "nattenqkrpb_cuda_kernel.cu", "nattenav_cuda.cpp"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"has no nattenav_cuda_kernel\.cu"):
        published_kernels(tmp_path).why_not(SMALL, "cpu", False)
    (tmp_path / "nattenav_cuda_kernel.cu").touch()
    assert published_kernels(tmp_path).why_not(SMALL, "cpu", False) == "they need a GPU"


@pytest.mark.parametrize("sizes", [{"window": 4}, {"frames": 0}, {"dtype": "int8"}, {"layout": "upside down"}])
def test_wrong_problems(sizes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(sizes.values())))):
        OpProblem(**sizes)


def test_unfold_network_has_our_logits_and_gradients() -> None:
    problem = ClipProblem("tiny", frames=3, size=64, classes=5)
    ours, theirs = NETWORKS["emim"].build(problem).train(), NETWORKS["unfold"].build(problem).train()
    assert list(ours.state_dict()) != []
    assert set(ours.state_dict()) == set(theirs.state_dict())
    torch.manual_seed(0)
    clips = torch.randn(2, 3, 3, 64, 64)
    results = []
    for model in (ours, theirs):
        logits = model(clips)
        logits.square().sum().backward()
        results.append((logits, dict(model.named_parameters())))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
    for name, parameter in results[0][1].items():
        other = results[1][1][name].grad
        assert parameter.grad is not None, name
        scale = parameter.grad.abs().max().item() + 1e-3
        torch.testing.assert_close(other / scale, parameter.grad / scale, rtol=1e-3, atol=1e-3, msg=name)
    motion = results[0][1]["blocks3.0.attn.motion_conv.2.weight"].grad
    assert motion.abs().max() > 0


def test_unfold_network_copies_the_weights() -> None:
    problem = ClipProblem("tiny", frames=2, size=32, classes=4)
    ours, theirs = NETWORKS["emim"].build(problem).eval(), NETWORKS["unfold"].build(problem).eval()
    clips = problem.clips(1, "cpu")
    with torch.inference_mode():
        expected = ours(clips)
        torch.testing.assert_close(theirs(clips), expected, rtol=1e-4, atol=1e-4)
        theirs.head.bias += 1
        torch.testing.assert_close(ours(clips), expected)


def test_videomae_takes_our_clips() -> None:
    if (reason := videomae.why_not(frames=2, size=32)) is not None:
        pytest.skip(reason)
    model = videomae.VideoMAE("S", frames=2, size=32, classes=7).eval()
    assert model(torch.randn(1, 3, 2, 32, 32)).shape == (1, 7)
    assert "must divide" in (videomae.why_not(frames=3, size=32) or "")
