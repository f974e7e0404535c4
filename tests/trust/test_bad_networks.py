"""Damaged and malicious network files and checkpoints."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lib_blocktrain.hosts.checkpoint import read_checkpoint_info
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.cards import RECORD
from lib_blocktrain.networks.contents import describe
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.networks.cases import SCALED, UNSCALED
from tests.trust.junk import damaged_bytes, damaged_json
from tests.trust.tally import bounded, fuzz, refused

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {
    f"{BLOCK}.attn1.to_q": lambda: nn.Linear(16, 32),
    "down_blocks.0.resnets.0.conv1": lambda: nn.Conv2d(16, 32, 3, padding=1),
    f"{BLOCK}.norm1": lambda: nn.LayerNorm(32),
}
DTYPES = ("float64", "float16", "bfloat16", "int64", "uint8", "bool", "float8_e4m3fn")
DIMENSIONS = (0, 1, 2, 3, 4, 8, 16, 32, 33)
ALL = BlockWeights.uniform("sd1", 1.0)
HALF = BlockWeights.uniform("sd1", 0.5)


def model_of(path: str, layer: nn.Module) -> nn.Module:
    """A model that consists of one layer at this path."""
    *outer, name = path.split(".")
    root = module = nn.Module()
    for part in outer:
        module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.add_module(name, layer)
    return root


def key_of(path: str) -> str:
    return f"lora_unet_{path.replace('.', '_')}"


def input_of(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return torch.randn(1, 16, 4, 4)
    return torch.randn(1, 3, 16 if isinstance(layer, nn.Linear) else 32)


def tensors_of(algorithm: str, layer: nn.Module) -> dict[str, Tensor]:
    if algorithm == "norm":
        return {"w_norm": torch.randn(32), "b_norm": torch.randn(32)}
    shape = tuple(layer.weight.shape) if layer.weight.ndim > 1 else (32, 16)
    tensors = (SCALED.get(algorithm) or UNSCALED[algorithm])(*shape)
    return {**tensors, "alpha": torch.tensor(2.0)} if algorithm in SCALED else tensors


@st.composite
def modules(draw) -> tuple[str, dict[str, Tensor]]:
    """A layer, and a module's tensors for it or for another one, of which one or two are wrong in some way."""
    path = draw(st.sampled_from(list(LAYERS)))
    other = draw(st.sampled_from([path, path, *LAYERS]))
    algorithm = draw(st.sampled_from([*SCALED, *UNSCALED, "norm"]))
    tensors = tensors_of(algorithm, LAYERS[other]())
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(list(tensors)))
        kind = draw(st.sampled_from(["shape", "shape", "dtype", "nan", "drop", "add"]))
        if kind == "shape":
            tensors[name] = torch.randn(draw(st.lists(st.sampled_from(DIMENSIONS), max_size=5)))
        elif kind == "dtype":
            tensors[name] = (tensors[name].float() * 3).to(getattr(torch, draw(st.sampled_from(DTYPES))))
        elif kind == "nan" and tensors[name].numel() and tensors[name].is_floating_point():
            tensors[name] = tensors[name].clone()
            tensors[name].view(-1)[-1] = draw(st.sampled_from([float("nan"), float("inf")]))
        elif kind == "drop" and len(tensors) > 1:
            del tensors[name]
        elif kind == "add":
            added = draw(st.sampled_from(["dora_scale", "alpha", "rescale", "lora_mid.weight", "hada_t1", "lokr_t2"]))
            tensors[added] = torch.randn(draw(st.lists(st.sampled_from(DIMENSIONS), max_size=4)))
    return path, tensors


def use(network, path: str) -> None:
    """Put it on a layer in both ways, which must agree, and take it off."""
    torch.manual_seed(0)
    layer = LAYERS[path]()
    model, x = model_of(path, layer), input_of(layer)
    before = layer(x)
    with applied(model, network, ALL):
        hooked = layer(x)
    with merged(model, network, ALL):
        added = layer(x)
    assert torch.equal(layer(x), before)
    assert hooked.isfinite().all()
    torch.testing.assert_close(hooked, added, rtol=1e-2, atol=1e-2)


def test_modules_of_wrong_shapes(tally, tmp_path):
    """Every algorithm with tensors of other shapes, dtypes, numbers: refused with the file's name, or it works."""
    file, baked = tmp_path / "robot.safetensors", tmp_path / "baked.safetensors"

    def check(value):
        path, tensors = value
        with tally.case("network modules") as case:
            key = key_of(path)
            named = {f"{key}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
            safetensors.torch.save_file(named, file)
            network = None

            def read():
                nonlocal network
                network = read_network(file)

            refused(lambda: describe(file), str(file))
            if refused(read, str(file)):
                case.fault = True
                return
            case.fault = refused(lambda: use(network, path), key) is not None
            refused(lambda: bake(network, HALF, baked, overwrite=True))
            if baked.exists():
                read_network(baked)
                baked.unlink()

    fuzz(modules(), check, tally.scale.examples * 3)


def content(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def lora(key: str = key_of(f"{BLOCK}.attn1.to_q")) -> dict[str, dict]:
    return {
        f"{key}.lora_down.weight": {"dtype": "F32", "shape": [4, 16], "data_offsets": [0, 256]},
        f"{key}.lora_up.weight": {"dtype": "F32", "shape": [32, 4], "data_offsets": [256, 768]},
    }


def changed(**entry: object) -> dict[str, dict]:
    header = lora()
    first = next(iter(header))
    return {**header, first: {**header[first], **entry}}


DATA = bytes(768)
PEFT = "lora_adapter_metadata"
SDXL = key_of("input_blocks.4.1.transformer_blocks.1.attn1.to_q")
DOTTED = "unet." + BLOCK + ".attn1.to_q"
SWAPPED = {key: {**entry, "shape": [4, 32] if "lora_down" in key else [16, 4]} for key, entry in lora().items()}
SWAPPED = {k: {**e, "data_offsets": [0, 512] if "lora_down" in k else [512, 768]} for k, e in SWAPPED.items()}


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "not a safetensors file"),
        (content(lora(), DATA)[:300], "cut short"),
        (content(lora(), DATA)[:-1], "cut short"),
        (content(lora(), DATA + b"more"), "(?i)incomplete|metadata|offset|invalid"),
        (content(changed(data_offsets=[0, 512]), DATA), "(?i)offset|invalid|mismatch"),
        (content(changed(data_offsets=[256, 512]), DATA), "(?i)offset|invalid"),
        (content(changed(shape=[2**62, 2**62]), DATA), "(?i)overflow|invalid|mismatch|offset"),
        (content(changed(shape=[4, 15]), DATA), "(?i)mismatch|invalid|offset"),
        (content(changed(dtype="F4"), DATA), "(?i)F4"),
        (content(changed(dtype="I32"), DATA), "dtype I32: expected one of F64"),
        (content({"x" * 2000: changed()}, DATA), "a tensor's name of 2000 characters"),
        (content({**lora(), **lora(SDXL)}, DATA), "several architectures"),
        (content(lora("lora_unet_nothing"), DATA), "not a network for SD1, SD2 or SDXL"),
        (content({**lora(), **lora(DOTTED)}, DATA), "are the same tensor|offset"),
        (content(b"[" * 1_000_000, DATA), "not JSON|recursion"),
        (content({"__metadata__": {"a": "b", "c": 3}}, DATA), "metadata"),
        (content({**lora(), "__metadata__": {"lora_adapter_metadata": "[1]"}}, DATA), "not a JSON object"),
        (
            content({**lora(), "__metadata__": {"lora_adapter_metadata": '{"lora_alpha": "x"}'}}, DATA),
            "lora_alpha = 'x'",
        ),
        (content({**lora(), "__metadata__": {"lora_adapter_metadata": "{" * 9000}}, DATA), "not JSON"),
        (content(lora(), struct.pack("<192f", *[float("nan")] * 192)), "not finite"),
        (content(lora(), struct.pack("<192f", *[1.0] * 191, float("inf"))), "lora_up.* not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_damaged_files(tally, tmp_path, damaged, said):
    path = tmp_path / "robot.safetensors"
    path.write_bytes(damaged)
    with tally.case("network files", fault=True), bounded(), pytest.raises(ValueError, match=said) as caught:
        read_network(path)
    assert str(path) in str(caught.value)
    refused(lambda: describe(path), str(path))


def test_a_lora_for_other_layers(tally, tmp_path):
    """Up and down that go together, but with no layer of the model: the sizes of both are named."""
    path = tmp_path / "robot.safetensors"
    path.write_bytes(content(SWAPPED, DATA))
    with tally.case("network files", fault=True):
        said = refused(lambda: use(read_network(path), f"{BLOCK}.attn1.to_q"), "32 x 16", "16 x 32")
        assert said


def test_headers(tally, tmp_path):
    """Headers of wrong JSON and files of wrong bytes: a word about it, and never more memory than the file is large."""
    path = tmp_path / "robot.safetensors"
    valid = {**lora(), "__metadata__": {"ss_output_name": "robot", "ss_tag_frequency": "{}"}}

    def check(damaged):
        with tally.case("network files") as case:
            path.write_bytes(damaged if isinstance(damaged, bytes) else content(damaged, DATA))
            refused(lambda: describe(path), str(path))
            case.fault = refused(lambda: read_network(path), str(path)) is not None
            refused(lambda: read_checkpoint_info(path), str(path))

    fuzz(damaged_bytes([content(valid, DATA)]) | damaged_json(valid), check, tally.scale.examples * 2)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" + b"[]," * 30_000_000 + b"[]]}",
        b'{"__metadata__":{' + b",".join(b'"%d":""' % number for number in range(3_000_000)) + b"}}",
        json.dumps({f"k{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)}),
    ],
    ids=["lists", "metadata", "tensors"],
)
def test_enormous_headers(tally, tmp_path, header):
    path = tmp_path / "robot.safetensors"
    header = header if isinstance(header, bytes) else header.encode()
    path.write_bytes(content(header, b""))
    room = 2 * len(header) / 2**20 + 200
    del header
    with tally.case("network files", fault=True), bounded(seconds=20, mib=room):
        assert refused(lambda: describe(path), str(path))


def test_deep_names(tally, tmp_path):
    path = tmp_path / "robot.safetensors"
    header = {("unet." + "a." * 490)[:900] + f"{n}.lora_down.weight": lora() for n in range(2000)}
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path.write_bytes(content(dict.fromkeys(header, entry)))
    with tally.case("network files", fault=True), bounded(seconds=20):
        assert refused(lambda: describe(path), str(path))


@pytest.mark.parametrize("record", ["", "[1]", "{", '{"baked": 3}', "[" * 9000], ids=repr)
def test_baking_over_a_strange_record(tally, tmp_path, record):
    """Somebody else's entry under our name in the metadata does not keep a file from being baked."""
    path = tmp_path / "robot.safetensors"
    path.write_bytes(content({**lora(), "__metadata__": {RECORD: record}}, DATA))
    with tally.case("network files", fault=True):
        bake(read_network(path), HALF, tmp_path / "baked.safetensors")
        baked = json.loads(read_network(tmp_path / "baked.safetensors").metadata[RECORD])["baked"]
        assert BlockWeights.from_json(baked[0]) == HALF


UNET = "model.diffusion_model."
CONTEXT = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = UNET + "input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({CONTEXT: [320, 768]}, "its U-Net takes None channels"),
        ({CONTEXT: [320, 768], FIRST: [320]}, "its U-Net takes None channels"),
        ({CONTEXT: [320]}, "no Stable Diffusion checkpoint"),
        ({CONTEXT: [320, 769], FIRST: [320, 4, 3, 3]}, "is 769 wide"),
        ({FIRST: []}, "no Stable Diffusion checkpoint"),
    ],
    ids=str,
)
def test_checkpoints(tally, tmp_path, shapes, said):
    path = tmp_path / "model.safetensors"
    header = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    path.write_bytes(content(header))
    with tally.case("checkpoints", fault=True), pytest.raises(ValueError, match=said) as caught:
        read_checkpoint_info(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".BIN"])
def test_pickles(tally, tmp_path, suffix):
    """None is opened, not even to look what it is."""
    path = tmp_path / f"robot{suffix}"
    path.symlink_to("/nowhere")
    for read in (read_network, describe, read_checkpoint_info):
        with tally.case("network files", fault=True):
            assert "pickles" in refused(lambda read=read: read(Path(path)), str(path))
