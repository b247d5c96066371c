"""PyTorch and safetensors files that are broken or hostile: one error each, before anything large is read or made."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import emim
from emim.errors import CheckpointError
from emim.models import tensor_file
from emim.models.tensor_file import read_tensor_file

FLAT = torch.zeros(2, 3)


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def sparse() -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**9,), check_invariants=True)


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(FLAT, 0.1, 0, torch.qint8)


HOSTILE: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "expanded to 160 GB": (
        lambda: torch.zeros(1).expand(200_000, 200_000),
        r"w announces \[200000, 200000\] torch.float32 values, but the file has 4 bytes of it",
    ),
    "float8": (lambda: FLAT.to(torch.float8_e4m3fn), "holds a float8 or unsigned tensor; only dense"),
    "meta": (lambda: torch.empty(10**12, device="meta"), "holds a meta tensor; only dense"),
    "nested": (lambda: torch.nested.nested_tensor([FLAT, FLAT[:1]]), "holds a nested tensor; only dense"),
    "sparse": (sparse, "holds a sparse tensor; only dense"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "holds a sparse tensor; only dense"),
    "quantised": (quantised, "holds a quantised tensor; only dense"),
    "complex": (lambda: FLAT.to(torch.complex64), "w has values of type torch.complex64; only dense"),
}


@pytest.mark.filterwarnings("ignore")  # torch calls some of these tensors deprecated or beta
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_other_than_dense_tensors_are_one_error(tmp_path: Path, kind: str, legacy: bool) -> None:
    make, message = HOSTILE[kind]
    saved(tmp_path / "odd.pth", {"model": {"w": make(), "v": FLAT}}, legacy=legacy)
    with pytest.raises(CheckpointError, match=rf"odd\.pth: {message}"):
        emim.create_model("uniformer_tiny", checkpoint=tmp_path / "odd.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_million_keys_are_not_read(tmp_path: Path, legacy: bool) -> None:
    saved(tmp_path / "keys.pth", {f"key{index}": index for index in range(1_000_000)}, legacy=legacy)
    with pytest.raises(
        CheckpointError, match=r"keys\.pth: the description of its content is longer than 4194304 bytes"
    ):
        read_tensor_file(tmp_path / "keys.pth")


def test_many_records_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "records.pth", "w") as archive:
        for index in range(70_000):
            archive.writestr(f"a/data/{index}", b"")
    with pytest.raises(CheckpointError, match=r"records\.pth: 70000 records, at most 50000"):
        read_tensor_file(tmp_path / "records.pth")


def test_many_tensors_in_safetensors_are_not_read(tmp_path: Path) -> None:
    save_file({f"a long name of a tensor that says little {index}": torch.zeros(0) for index in range(100_000)},
              tmp_path / "many.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"many\.safetensors: .*a header of \d+ bytes, at most"):
        read_tensor_file(tmp_path / "many.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file_is_one_error(tmp_path: Path, legacy: bool, share: float) -> None:
    content = saved(tmp_path / "whole.pth", {"w": torch.zeros(50, 50), "v": FLAT}, legacy=legacy).read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pth: not a readable checkpoint"):
        read_tensor_file(tmp_path / "cut.pth")


def rezipped(path: Path, pickled: bytes | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    """A PyTorch file with another pickle in it, or compressed."""
    whole = saved(path.with_suffix(".whole"), {"w": FLAT})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            other = pickled is not None and entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, pickled if other and pickled is not None else source.read(entry))
    return path


def test_an_archive_written_by_another_tool_is_read(tmp_path: Path) -> None:
    assert torch.equal(read_tensor_file(rezipped(tmp_path / "same.pth")).tensors["w"], FLAT)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"small\.pth: a compressed archive"):
        read_tensor_file(rezipped(tmp_path / "small.pth", compression=zipfile.ZIP_DEFLATED))


def test_tuples_that_stand_for_2_to_the_60_values_are_refused(tmp_path: Path) -> None:
    pickled = b"\x80\x02}q\x00K\x01\x85q\x01"
    for index in range(1, 60):  # each holds the one before twice
        pickled += b"h" + bytes([index]) + b"h" + bytes([index]) + b"\x86q" + bytes([index + 1])
    path = rezipped(tmp_path / "tuples.pth", pickled + b"K\x01s.")  # the last one is a key, and is hashed
    with pytest.raises(CheckpointError, match=r"tuples\.pth: refused, its tuples stand for more than"):
        read_tensor_file(path)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("builtins bytearray", b"J\xff\xff\xff\x7f\x85"),  # bytearray(2**31 - 1)
        ("torch.storage UntypedStorage", b"J\xff\xff\xff\x7f\x85"),
        ("torch FloatTensor", b"J\xff\xff\xff\x7f\x85"),
        ("posix system", b"X\x04\x00\x00\x00true\x85"),
        ("_codecs encode", b"X\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86"),
    ],
)
def test_a_pickle_may_name_plain_containers_and_tensors_alone(tmp_path: Path, name: str, arguments: bytes) -> None:
    pickled = b"\x80\x02}X\x01\x00\x00\x00wc" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"Rs."
    asked = name.replace(" ", ".")
    with pytest.raises(CheckpointError, match=rf"refused, it is not a file of weights alone \(it asks for {asked}\)"):
        read_tensor_file(rezipped(tmp_path / "asks.pth", pickled))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_protocol_of_pickle_hides_a_name(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "named.pth"
    path.write_bytes(pickle.dumps({"w": print}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"named\.pth: refused, .*asks for (__builtin__|builtins)\.print"):
        read_tensor_file(path)


def test_two_indices_in_one_archive_are_refused(tmp_path: Path) -> None:
    content = saved(tmp_path / "one.pth", {"w": FLAT}).read_bytes()
    with zipfile.ZipFile(tmp_path / "two.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"")
    two = (tmp_path / "two.pth").read_bytes()
    (tmp_path / "both.pth").write_bytes(content + two)
    with pytest.raises(CheckpointError, match=r"both\.pth: not a readable checkpoint \(the index of the archive"):
        read_tensor_file(tmp_path / "both.pth")


def test_a_torchscript_program_and_a_whole_module_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "module.pth", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"refused, .*asks for torch\.nn\.modules\.linear\.Linear"):
        read_tensor_file(tmp_path / "module.pth")
    with zipfile.ZipFile(tmp_path / "program.pth", "w") as archive:  # as torch.jit.save names its entries
        archive.writestr("program/data.pkl", b"\x80\x02}.")
        archive.writestr("program/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="a TorchScript program; save the state_dict"):
        read_tensor_file(tmp_path / "program.pth")


def test_attributes_that_hide_a_dictionarys_methods_change_nothing(tmp_path: Path) -> None:
    ordered = b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb"  # its `items` is 1
    path = rezipped(tmp_path / "items.pth", b"\x80\x02}X\x05\x00\x00\x00model" + ordered + b"s.")
    with pytest.raises(CheckpointError, match="no weights found"):
        read_tensor_file(path)
    with pytest.raises(CheckpointError, match="no weights found"):
        read_tensor_file(rezipped(tmp_path / "items.pth", b"\x80\x02" + ordered + b"."))


def test_parameters_half_precision_and_views_are_read(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {
        "parameter": torch.nn.Parameter(FLAT), "half": FLAT.half(), "bfloat16": FLAT.bfloat16(), "view": base[2:8:2],
        "turned": base.view(3, 4).T, "count": torch.tensor(3), "empty": torch.zeros(0, 5),
    }  # fmt: skip
    for legacy in (False, True):
        tensors = read_tensor_file(saved(tmp_path / f"{legacy}.pth", content, legacy=legacy)).tensors
        assert tensors.keys() == content.keys()
        assert all(torch.equal(tensors[name], value) for name, value in content.items())
        assert not any(value.requires_grad for value in tensors.values())


def test_create_model_reads_a_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "nine.pth", emim.create_model("uniformer_tiny", 9).state_dict())
    read: list[Path] = []
    load = torch.load
    monkeypatch.setattr(tensor_file.torch, "load", lambda file, **how: read.append(file) or load(file, **how))
    assert emim.create_model("uniformer_tiny", checkpoint=path).num_classes == 9
    assert read == [path]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks1.0.norm1.running_var", -torch.ones(24), "is a variance, but holds -1"),
        (
            "blocks1.0.norm1.weight",
            torch.ones(24, dtype=torch.int64),
            "has values of type torch.int64, torch.float32 in",
        ),
        ("blocks1.0.norm1.num_batches_tracked", torch.tensor(1.0), "has values of type torch.float32, torch.int64 in"),
        ("head.bias", torch.tensor(1.0), None),
    ],
)
def test_wrong_values_of_a_checkpoint_are_named(
    tmp_path: Path, name: str, value: torch.Tensor, message: str | None
) -> None:
    state = emim.create_model("uniformer_tiny", 5).state_dict()
    path = saved(tmp_path / "wrong.pth", {**state, name: value})
    model = emim.create_model("uniformer_tiny", 5)
    if message is None:
        assert emim.load_checkpoint(model, path).skipped == {name: "shape [] there, [5] here"}
        return
    with pytest.raises(CheckpointError, match=rf"wrong\.pth: {name} {message}"):
        emim.load_checkpoint(model, path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), values=st.binary(min_size=1, max_size=6), legacy=st.booleans())
def test_a_file_with_other_bytes_is_read_or_one_error(
    tmp_path: Path, place: float, values: bytes, legacy: bool
) -> None:
    path = saved(tmp_path / "damaged.pth", {"model": {"w": FLAT, "v": torch.ones(3)}, "epoch": 3}, legacy=legacy)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + len(values)] = values
    path.write_bytes(content)
    found: Any = None
    try:
        found = read_tensor_file(path).tensors
    except CheckpointError as error:
        found = str(error)
    assert isinstance(found, dict) or found.startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_name_that_no_file_can_have(tmp_path: Path, suffix: str) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="no such checkpoint file"):
            read_tensor_file(tmp_path / f"{name}{suffix}")


def test_keys_that_are_no_names_are_counted_by_type(tmp_path: Path) -> None:
    path = saved(tmp_path / "keys.pth", {(1, 2): 3, 4: 5, None: 6})
    with pytest.raises(CheckpointError, match=r"no weights found.*its keys are tuple, int 4, NoneType"):
        read_tensor_file(path)


def test_a_header_that_is_longer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "short.safetensors").write_bytes(struct.pack("<Q", 2**20) + b"{}")
    with pytest.raises(CheckpointError, match=r"short\.safetensors: not a readable safetensors file"):
        read_tensor_file(tmp_path / "short.safetensors")
