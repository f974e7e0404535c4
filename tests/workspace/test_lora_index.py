"""The LoRA list: what files contain, what is read when, and names that never become paths."""

from __future__ import annotations

import json
import os

import pytest

from lib_blocktrain.workspace import lora_index as library_module
from lib_blocktrain.workspace.lora_index import LoraIndex
from tests.fakes import SDXL_LAYERS, write_lora
from tests.networks.test_peft_config import LORA, folder_with


def test_what_a_file_contains(host, lora_index):
    tags = {"10_robot": {"robot": 90, "metal ": 4}, "5_more": {"robot": 10}}
    arguments = {"up_lr_weight": "1,0,1", "conv_dim": "8"}
    write_lora(
        host.lora_dirs[0] / "sub" / "trained.safetensors",
        ss_tag_frequency=json.dumps(tags),
        ss_network_args=json.dumps(arguments),
    )
    lora_index.refresh()
    file = lora_index.file("sub/trained")
    assert (file.architecture, file.algorithms, file.rank) == ("sd1", ("lora",), 2)
    assert {block for block, count in file.blocks.items() if count} == {"IN04", "OUT03", "BASE"}
    assert file.lacks("M00")
    assert not file.lacks("BASE")
    assert file.tags == [("robot", 100), ("metal", 4)]
    assert file.block_arguments == {"up_lr_weight": "1,0,1"}


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"a": 3}', '{"a": {"b": "c"}}', "[" * 5000])
def test_strange_metadata_are_no_tags(host, lora_index, text):
    write_lora(host.lora_dirs[0] / "odd.safetensors", ss_tag_frequency=text, ss_network_args=text)
    lora_index.refresh()
    assert lora_index.file("odd").tags == []
    assert lora_index.file("odd").block_arguments == {}


def test_search(host, lora_index):
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    lora_index.refresh()
    assert [file.key for file in lora_index.files("ROB")] == ["robot"]
    assert [file.key for file in lora_index.files("sdxl lora")] == ["xl"]
    assert lora_index.files("robot sdxl") == []


def test_a_damaged_file_is_listed_with_its_problem(host, lora_index):
    (host.lora_dirs[0] / "bad.safetensors").write_bytes(b"not a network at all")
    lora_index.refresh()
    assert "header" in lora_index.file("bad").problem
    assert len(lora_index.files()) == 3


def test_the_same_name_in_two_folders(host, tmp_path):
    write_lora(tmp_path / "more" / "robot.safetensors")
    lora_index = LoraIndex(lambda: (*host.lora_dirs, tmp_path / "more", tmp_path / "missing"))
    lora_index.refresh()
    assert {file.key: file.path.parent.name for file in lora_index.files()} == {
        "robot": "loras",
        "style": "loras",
        "robot (more)": "more",
    }


@pytest.mark.parametrize("key", ["../robot", "/etc/passwd", "robot.safetensors", ""])
def test_only_what_was_found_has_a_key(lora_index, key):
    with pytest.raises(ValueError, match="no LoRA"):
        lora_index.file(key)


def test_a_network_is_read_once_and_again_when_it_changed(host, lora_index, monkeypatch):
    reads = []
    read = library_module.read_network
    monkeypatch.setattr(library_module, "read_network", lambda path: reads.append(path) or read(path))
    first = lora_index.network("robot")
    assert lora_index.network("robot") is first
    path = write_lora(host.lora_dirs[0] / "robot.safetensors", ss_output_name="another")
    os.utime(path, ns=(1, 1))
    assert lora_index.network("robot").metadata["ss_output_name"] == "another"
    assert len(reads) == 2


def test_headers_are_read_once(lora_index, monkeypatch):
    monkeypatch.setattr(library_module, "describe", lambda path: pytest.fail(f"{path} read again"))
    lora_index.refresh()
    assert len(lora_index.files()) == 2


def test_links_in_a_circle_and_into_nowhere(host, lora_index):
    folder = host.lora_dirs[0]
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    lora_index.refresh()
    assert [file.key for file in lora_index.files()] == ["robot", "style"]


def test_a_network_is_read_again_when_pefts_configuration_changed(tmp_path):
    path = folder_with(tmp_path, LORA)
    index = LoraIndex(lambda: [tmp_path])
    index.refresh()
    assert {module.alpha for module in index.network(path.stem).modules.values()} == {2}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**LORA, "lora_alpha": 7}))
    os.utime(tmp_path / "adapter_config.json", ns=(1, 1))
    assert {module.alpha for module in index.network(path.stem).modules.values()} == {7}
    (tmp_path / "adapter_config.json").unlink()
    assert {module.alpha for module in index.network(path.stem).modules.values()} == {None}
