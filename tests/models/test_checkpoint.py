from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import emim
from emim.errors import CheckpointError, ConfigError, UnknownNameError
from emim.models import UniFormer


def tiny(num_classes: int = 5, name: str = "uniformer_tiny_emim") -> UniFormer:
    return emim.create_model(name, num_classes=num_classes)


def same_weights(one: UniFormer, other: UniFormer) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("key", [None, "model", "model_state", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_layouts(tmp_path: Path, key: str | None, prefix: str) -> None:
    source = tiny()
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / "published.pth"
    torch.save(weights if key is None else {key: weights, "epoch": 3}, path)
    target = tiny()
    report = emim.load_checkpoint(target, path)
    assert same_weights(source, target)
    assert report.coverage == 1.0
    assert len(report.matched) == len(target.state_dict())
    assert not any((report.missing, report.unexpected, report.skipped, report.inflated))


def test_safetensors(tmp_path: Path) -> None:
    source = tiny()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    target = tiny()
    emim.load_checkpoint(target, tmp_path / "weights.safetensors")
    assert same_weights(source, target)


def test_flat_kernels_are_inflated(tmp_path: Path) -> None:
    source = tiny()
    flat = {
        name: value.sum(2) if value.dim() == 5 and value.shape[2] == 3 else value
        for name, value in source.state_dict().items()
    }
    torch.save(flat, tmp_path / "imagenet.pth")
    target = tiny()
    report = emim.load_checkpoint(target, tmp_path / "imagenet.pth")
    assert "patch_embed1.proj.weight" in report.inflated
    kernel = target.patch_embed1.proj.weight
    expected = flat["patch_embed1.proj.weight"] / 3
    for frame in range(3):
        torch.testing.assert_close(kernel[:, :, frame], expected)
    # A still video gives what the image network gave: the kernel's sum over time is the flat kernel.
    torch.testing.assert_close(kernel.sum(2), flat["patch_embed1.proj.weight"])


def test_a_head_of_other_classes_is_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny(7).state_dict(), tmp_path / "seven.pth")
    target = tiny(5)
    head = target.head.weight.clone()
    report = emim.load_checkpoint(target, tmp_path / "seven.pth")
    assert report.skipped == {"head.weight": "7 classes there, 5 here", "head.bias": "7 classes there, 5 here"}
    assert report.coverage == 1.0  # of everything but the head
    assert torch.equal(target.head.weight, head)
    assert "7 classes there, 5 here" in caplog.text


def test_plain_weights_start_an_emim_network(tmp_path: Path) -> None:
    torch.save(tiny(name="uniformer_tiny").state_dict(), tmp_path / "plain.pth")
    report = emim.load_checkpoint(tiny(), tmp_path / "plain.pth", verbose=False)
    assert {name.split(".attn.")[1].split(".")[0] for name in report.missing} == {"motion_conv", "rpb"}
    assert 0.9 < report.coverage < 1.0


def test_too_little_coverage_fails_and_leaves_the_network_alone(tmp_path: Path) -> None:
    state = tiny().state_dict()
    torch.save({name: value for name, value in state.items() if name.startswith("blocks1")}, tmp_path / "part.pth")
    target = tiny()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"part\.pth does not fit the network: it covers \d"):
        emim.load_checkpoint(target, tmp_path / "part.pth")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert emim.load_checkpoint(target, tmp_path / "part.pth", min_coverage=0.0).coverage < 0.5


def test_other_shapes_are_skipped_with_both_shapes(tmp_path: Path) -> None:
    torch.save(emim.create_model("uniformer_tiny_emim", 5, window=5).state_dict(), tmp_path / "window5.pth")
    report = emim.load_checkpoint(tiny(), tmp_path / "window5.pth", verbose=False)
    assert report.skipped["blocks3.0.attn.rpb"] == "shape [3, 5, 5] there, [3, 7, 7] here"


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('executed').touch()",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": tiny().state_dict(), "extra": RunsCode()}
    if how == "torch":
        torch.save(content, "bad.pth")
    else:
        Path("bad.pth").write_bytes(pickle.dumps({"extra": RunsCode()}))
    with pytest.raises(CheckpointError, match="refused, it is not a file of weights alone"):
        emim.load_checkpoint(tiny(), "bad.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        emim.load_checkpoint(tiny(), tmp_path / name)


def test_a_cut_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(tiny().state_dict(), path)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth: not a readable checkpoint"):
        emim.load_checkpoint(tiny(), tmp_path / "cut.pth")


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["blocks1.0.conv1.weight"] = state["blocks1.0.conv1.weight"] * float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"blocks1\.0\.conv1\.weight holds NaN or Inf"):
        emim.load_checkpoint(tiny(), tmp_path / "nan.pth")


def test_a_missing_file_and_a_file_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        emim.load_checkpoint(tiny(), tmp_path / "nowhere.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match=r"no weights found.*its keys are epoch"):
        emim.load_checkpoint(tiny(), tmp_path / "empty.pth")


def test_create_model_takes_a_checkpoint_and_its_class_count(tmp_path: Path) -> None:
    source = tiny(9)
    torch.save(source.state_dict(), tmp_path / "nine.pth")
    model = emim.create_model("uniformer_tiny_emim", checkpoint=tmp_path / "nine.pth")
    assert model.num_classes == 9
    assert same_weights(model, source)


def test_wrong_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'uniformer_small_emim'"):
        emim.create_model("uniformer_smal_emim")
    with pytest.raises(ConfigError, match="no argument 'stem_strid'; did you mean 'stem_stride'"):
        emim.create_model("uniformer_tiny", stem_strid=2)
    with pytest.raises(ConfigError, match="stem_stride must be 1 or 2, got 3"):
        emim.create_model("uniformer_tiny", stem_stride=3)
