"""The header of a safetensors file, valid and damaged."""

import json
import struct

import pytest

from lib_blocktrain.networks.header import NetworkFileError, read_header


def content(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list, offsets: list) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


def test_reads_what_safetensors_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3), "y": torch.zeros((), dtype=torch.bfloat16)}, path, {"ss_output_name": "A"})
    header = read_header(path)
    assert header.shapes == {"x": (2, 3), "y": ()}
    assert header.dtypes == {"x": "F32", "y": "BF16"}
    assert header.metadata == {"ss_output_name": "A"}
    assert path.stat().st_size == header.start + 26


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04 a zip file", "not a safetensors file"),
        (content({"x": tensor([1], [0, 4])}, b"")[:20], "cut short"),
        (content({}, length=2**63), "not a safetensors file"),
        (content(b"{not json}"), "not JSON"),
        (content(b"\xff\xfe\x00garbage"), "not JSON"),
        (content(["x"]), "not a table"),
        (content({"__metadata__": {"a": 1}}), "metadata"),
        (content({"x": tensor([1], [0, 4])}, b"123"), "cut short: tensor 'x'"),
        (content({"x": tensor([1], [4, 0])}, b"1234"), "cut short"),
        (content({"x": tensor([-1], [0, 4])}, b"1234"), "'x' is damaged"),
        (content({"x": tensor([1], [0])}, b"1234"), "'x' is damaged"),
        (content({"x": [1, 2]}, b"1234"), "'x' is damaged"),
        (content({"x": {"dtype": 4, "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "'x' is damaged"),
    ],
)
def test_damaged_files_are_named_with_the_reason(tmp_path, damaged, said):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(NetworkFileError, match=rf"broken\.safetensors.*{said}"):
        read_header(path)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_pickles_are_refused_with_the_reason(tmp_path, suffix):
    path = tmp_path / f"old{suffix}"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(NetworkFileError, match="runs whatever code is inside"):
        read_header(path)
