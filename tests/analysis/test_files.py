"""Weight norms and similar LoRAs, from files alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lib_blocktrain.analysis import similar
from lib_blocktrain.analysis.attribution import weight_norms
from lib_blocktrain.analysis.similar import Profile, Profiles, of_file, rank
from lib_blocktrain.networks.adapters import DoRA
from lib_blocktrain.networks.files import Network
from lib_blocktrain.weights.block_weights import BlockWeights
from tests.analysis.miniature import lora_for
from tests.tiny_models import network_for

LAYER = "lora_unet_{}_attentions_0_transformer_blocks_0_attn1_to_q"
PLACES = {"IN04": "down_blocks_1", "OUT03": "up_blocks_1", "OUT09": "up_blocks_3"}


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr whole", "full", "norm"])
def test_norms_are_those_of_the_delta_weights(sd1, algorithm):
    network = network_for(sd1.unet, algorithm, layers=() if algorithm == "norm" else ("attn2_to_q", "conv1"))
    halved = BlockWeights.uniform("sd1", 1.0).replace({"M00": 0.5})
    found = weight_norms(network, halved)
    squares: dict[str, float] = {}
    layers = dict(_layers(sd1.unet))
    for key, module in network.modules.items():
        block = network.block_of(key)
        parts = (module.delta_weight(layers[key].weight.double()), module.delta_bias())
        square = sum(float(part.double().square().sum()) for part in parts if part is not None)
        squares[block] = squares.get(block, 0.0) + square * (0.25 if block == "M00" else 1)
    whole = sum(squares.values()) ** 0.5
    assert found.means() == pytest.approx({block: square**0.5 / whole for block, square in squares.items()}, rel=1e-4)


def test_what_the_file_does_not_tell_is_said(sd1):
    plain = lora_for(sd1, ("attn2_to_q",))
    dora = {k: DoRA(k, m, torch.ones(1, m.down.shape[1])) for k, m in plain.modules.items()}
    found = weight_norms(Network("d", "sd1", dora))
    assert found.means() == pytest.approx(weight_norms(plain).means())
    assert found.notices == ("dora: its magnitude is left out",)
    ia3 = network_for(sd1.unet, "ia3 on input", layers=("attn2_to_k",))
    with pytest.raises(ValueError, match="ia3: its size depends on the model's own weights"):
        weight_norms(ia3)


def write(path, sizes: dict[str, float], tags: dict[str, int] | None = None, **metadata: str):
    tensors = {}
    for block, size in sizes.items():
        key = LAYER.format(PLACES[block])
        tensors |= {f"{key}.lora_down.weight": torch.eye(2, 8) * size, f"{key}.lora_up.weight": torch.eye(8, 2)}
    if tags:
        metadata["ss_tag_frequency"] = json.dumps({"10_x": tags})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture
def folder(tmp_path):
    robot = {"robot": 20, "1girl": 30, "blue background": 5}
    write(tmp_path / "me.safetensors", {"IN04": 1, "OUT03": 3}, robot, ss_blocktrain='{"canvas": 0.1}')
    write(tmp_path / "a" / "twin.safetensors", {"IN04": 1, "OUT03": 3}, robot, ss_blocktrain='{"canvas": 0.12}')
    write(tmp_path / "a" / "other.safetensors", {"OUT09": 1}, {"city": 20, "1girl": 30}, ss_blocktrain='{"canvas": 1}')
    write(tmp_path / "silent.safetensors", {"IN04": 1, "OUT03": 3}, ss_tag_frequency="[broken")
    save_file(
        {
            f"lora_unet_output_blocks_1_1_transformer_blocks_9_attn1_to_q.lora_{n}.weight": torch.ones(2, 2)
            for n in ("down", "up")
        },
        tmp_path / "large.safetensors",
    )
    (tmp_path / "broken.safetensors").write_bytes(b"no safetensors")
    return tmp_path


def test_ranking_with_reasons(folder):
    target = of_file(folder / "me.safetensors")
    assert target.norms == pytest.approx({"IN04": 0.1, "OUT03": 0.9})
    found = rank(target, Profiles(folder / "cache.json").of([folder]))
    assert [match.profile.name for match in found.matches] == ["twin", "silent", "other", "large"]
    best, silent, other, foreign = found.matches
    assert best.likeness > 0.95
    assert "tags alike 100% (blue background, robot, 1girl)" in best.reasons[1]
    assert "blocks alike 100% (strongest OUT03, IN04)" in best.reasons
    assert "fills 12% of the picture, here 10%" in best.reasons
    assert "not known: tags, canvas" in silent.reasons
    assert other.likeness < 0.25  # what all have, 1girl, tells little
    assert (foreign.likeness, foreign.reasons) == (0, ("for SDXL, not SD1: other blocks",))
    (unreadable,) = found.unreadable
    assert unreadable.name == "broken"
    assert "not a safetensors file" in unreadable.problem


def test_only_changed_files_are_read_again(folder, monkeypatch):
    profiles = Profiles(folder / "cache.json")
    first = profiles.of([folder])
    read = []
    monkeypatch.setattr(similar, "of_file", lambda path: read.append(path.name) or Profile(path.stem, str(path)))
    assert profiles.of([folder]) == first
    write(folder / "silent.safetensors", {"OUT09": 2}, {"new": 1})
    (folder / "a" / "other.safetensors").unlink()
    assert len(profiles.of([folder])) == len(first) - 1
    assert read == ["silent.safetensors"]
    (folder / "cache.json").write_text("{broken", "utf-8")
    assert len(profiles.of([folder])) == len(first) - 1
    with pytest.raises(ValueError, match="expected a folder"):
        profiles.of([folder / "nowhere"])


def _layers(unet):
    from lib_blocktrain.networks.placement import layers_by_key

    return layers_by_key(unet, "sd1")
