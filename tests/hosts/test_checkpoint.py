"""What a checkpoint is, from its header alone."""

from __future__ import annotations

import json
import struct

import pytest

from lib_blocktrain.hosts.checkpoint import UnsupportedCheckpoint, read_checkpoint_info

UNET = "model.diffusion_model."


def header_only(path, context: int, channels: int = 4, block: str = "input_blocks.1.1", metadata=None, extra=()):
    """Write a file with empty tensors of the shapes that matter; safetensors allows tensors without elements."""
    shapes = {
        f"{UNET}{block}.transformer_blocks.0.attn2.to_k.weight": [0, context],
        f"{UNET}input_blocks.0.0.weight": [0, channels, 3, 3],
        **{name: [0] for name in extra},
    }
    header = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


@pytest.mark.parametrize(
    ("context", "block", "architecture", "prediction"),
    [
        (768, "input_blocks.1.1", "sd1", "epsilon"),
        (1024, "input_blocks.1.1", "sd2", None),  # both kinds of SD2 look alike
        (2048, "input_blocks.4.1", "sdxl", "epsilon"),
    ],
)
def test_architectures(tmp_path, context, block, architecture, prediction):
    found = read_checkpoint_info(header_only(tmp_path / "model.safetensors", context, block=block))
    assert (found.architecture, found.prediction, found.inpainting) == (architecture, prediction, False)
    assert not found.notices


def test_inpainting_is_said(tmp_path):
    found = read_checkpoint_info(header_only(tmp_path / "model.safetensors", 768, channels=9))
    assert found.inpainting
    assert any("inpainting" in notice for notice in found.notices)


@pytest.mark.parametrize("how", ["tensor", "metadata", "yaml", "scaling"])
def test_v_prediction_is_said(tmp_path, how):
    path = tmp_path / "model.safetensors"
    metadata = {"modelspec.prediction_type": "v"} if how == "metadata" else None
    header_only(path, 1024, metadata=metadata, extra=("v_pred",) if how == "tensor" else ())
    if how == "yaml":
        path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: 'v'\n")
    if how == "scaling":  # of SDXL: A1111's and Forge's rule
        target = "target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling"
        path.with_suffix(".yaml").write_text(f"model:\n  params:\n    scaling_config:\n      {target}\n")
    found = read_checkpoint_info(path)
    assert found.prediction == "v"
    assert any("v-prediction" in notice for notice in found.notices)


def test_zero_terminal_snr_and_clip_skip_are_read(tmp_path):
    path = header_only(tmp_path / "model.safetensors", 768, metadata={"modelspec.encoder_layer": "2"}, extra=("ztsnr",))
    found = read_checkpoint_info(path)
    assert (found.zero_terminal_snr, found.clip_skip) == (True, 2)
    assert {"zero terminal SNR", "clip skip 2"} <= set(found.notices)
    plain = read_checkpoint_info(header_only(tmp_path / "plain.safetensors", 768, metadata={}))
    assert (plain.zero_terminal_snr, plain.clip_skip) == (False, 1)


def test_distilled_is_warned_about(tmp_path):
    found = read_checkpoint_info(header_only(tmp_path / "sd_xl_turbo.safetensors", 2048, block="input_blocks.4.1"))
    assert any("turbo" in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("context", "channels", "words"),
    [(1280, 4, "refiner"), (128, 4, "128"), (768, 8, "8 channels")],
)
def test_refused(tmp_path, context, channels, words):
    block = "input_blocks.4.1" if context == 1280 else "input_blocks.1.1"
    path = header_only(tmp_path / "model.safetensors", context, channels, block)
    with pytest.raises(UnsupportedCheckpoint, match=words) as error:
        read_checkpoint_info(path)
    assert str(path) in str(error.value)


def test_no_checkpoint(tmp_path):
    path = tmp_path / "lora.safetensors"
    text = json.dumps({"lora_unet_x.alpha": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UnsupportedCheckpoint, match=r"lora_unet_x\.alpha"):
        read_checkpoint_info(path)
