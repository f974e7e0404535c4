"""The LoRA list: what files contain, what is read when, and names that never become paths."""

from __future__ import annotations

import json
import os
import threading

import pytest

from lib_blocktrain.networks.contents import Descriptions
from lib_blocktrain.workspace import lora_index as library_module
from lib_blocktrain.workspace.lora_files import Sidecar
from lib_blocktrain.workspace.lora_index import LoraIndex
from tests.fakes import SDXL_LAYERS, write_lora
from tests.networks.test_peft_config import LORA, folder_with

LONG = 30  # seconds


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
    assert (file.architecture, file.algorithms, file.facts.rank) == ("sd1", ("lora",), 2)
    assert {block for block, count in file.blocks.items() if count} == {"IN04", "OUT03", "BASE"}
    assert file.lacks("M00")
    assert not file.lacks("BASE")
    assert file.facts.tags == (("robot", 100), ("metal", 4))
    assert file.facts.block_arguments == {"up_lr_weight": "1,0,1"}
    assert lora_index.metadata("sub/trained")["ss_tag_frequency"] == json.dumps(tags)


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"a": 3}', '{"a": {"b": "c"}}', "[" * 5000])
def test_strange_metadata_are_no_tags(host, lora_index, text):
    write_lora(host.lora_dirs[0] / "odd.safetensors", ss_tag_frequency=text, ss_network_args=text)
    lora_index.refresh()
    assert lora_index.file("odd").facts.tags == ()
    assert lora_index.file("odd").facts.block_arguments == {}


def test_search(host, lora_index):
    write_lora(host.lora_dirs[0] / "xl.safetensors", SDXL_LAYERS)
    (host.lora_dirs[0] / "style.json").write_text(json.dumps({"activation text": "Ink Wash, brush"}))
    lora_index.refresh()
    assert lora_index.wait(LONG)
    assert [file.key for file in lora_index.files("ink brush")] == ["style"]
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
    assert lora_index.wait(LONG)
    forbid_reading(monkeypatch)
    lora_index.refresh()
    assert len(lora_index.files()) == 2
    assert lora_index.complete


def forbid_reading(monkeypatch):
    monkeypatch.setattr(Descriptions, "describe", lambda _, path: pytest.fail(f"{path} read again"))


@pytest.fixture
def held(monkeypatch):
    """While it is cleared, reading a header waits."""
    gate = threading.Event()
    describe = Descriptions.describe
    monkeypatch.setattr(Descriptions, "describe", lambda *of: gate.wait(LONG) and describe(*of))
    yield gate
    gate.set()


def test_names_are_there_before_the_headers_are_read(host, held):
    index = LoraIndex(lambda: host.lora_dirs)
    index.refresh()
    assert [(file.key, file.known) for file in index.files()] == [("robot", False), ("style", False)]
    assert index.files("sd1") == []
    revision, everything, files = index.changes()
    assert (everything, len(files)) == (True, 2)
    assert not index.wait(0.05)
    held.set()
    assert index.wait(LONG)
    later, everything, files = index.changes(revision)
    assert later > revision
    assert (everything, {file.key: file.architecture for file in files}) == (False, {"robot": "sd1", "style": "sd1"})
    assert index.changes(later) == (later, False, [])
    (host.lora_dirs[0] / "robot.safetensors").unlink()
    index.refresh()
    assert [file.key for file in index.changes(later)[2]] == ["style"]
    assert index.changes(later)[1]


def test_a_file_that_is_asked_for_is_read_at_once(host, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # the background never begins
    index = LoraIndex(lambda: host.lora_dirs)
    index.refresh()
    assert index.file("robot").architecture == "sd1"
    assert [file.known for file in index.files()] == [True, False]


def test_a_second_start_reads_no_header(host, tmp_path, monkeypatch):
    (host.lora_dirs[0] / "bad.safetensors").write_bytes(b"not a network at all")
    (host.lora_dirs[0] / "style.json").write_text(json.dumps({"activation text": "ink", "preferred weight": 0.7}))
    store = tmp_path / "cache" / "loras.json"
    first = LoraIndex(lambda: host.lora_dirs, lambda: store)
    first.refresh()
    assert first.wait(LONG)
    forbid_reading(monkeypatch)
    second = LoraIndex(lambda: host.lora_dirs, lambda: store)
    second.refresh()
    assert second.complete
    assert second.files() == first.files()
    assert second.file("style").sidecar == Sidecar(activation="ink", weight=0.7)


@pytest.mark.parametrize("ending", ["changed", "another size"])
def test_a_changed_file_is_read_again(host, tmp_path, ending):
    store = tmp_path / "loras.json"
    first = LoraIndex(lambda: host.lora_dirs, lambda: store)
    first.refresh()
    assert first.wait(LONG)
    first.close()
    path = host.lora_dirs[0] / "style.safetensors"
    before = path.stat().st_mtime_ns
    write_lora(path, SDXL_LAYERS)
    if ending == "another size":
        os.utime(path, ns=(before, before))
    for index in (first, LoraIndex(lambda: host.lora_dirs, lambda: store)):
        index.refresh()
        assert index.file("style").architecture == "sdxl"


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "format", "not text"])
def test_a_damaged_index_is_made_anew(host, tmp_path, damage, caplog):
    store = tmp_path / "loras.json"
    first = LoraIndex(lambda: host.lora_dirs, lambda: store)
    first.refresh()
    assert first.wait(LONG)
    whole = store.read_bytes()
    assert whole.count(b"sd1") >= 1
    store.write_bytes(
        {
            "empty": b"",
            "cut": whole[:-9],
            "bit": whole.replace(b"sd1", b"sd2", 1),
            "format": whole.replace(b'"format": 2', b'"format": 0'),
            "not text": b"\x80\x00\n\xff",
        }[damage]
    )
    second = LoraIndex(lambda: host.lora_dirs, lambda: store)
    second.refresh()
    assert second.wait(LONG)
    assert second.files() == first.files()
    assert "read again" in caplog.text
    assert store.read_bytes() == whole


def test_a_full_disk_is_said_and_costs_nothing_else(host, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    index = LoraIndex(lambda: host.lora_dirs, lambda: tmp_path / "file" / "loras.json")
    index.refresh()
    assert index.wait(LONG)
    assert len(index.files("sd1")) == 2
    index.close()
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("text", ["", "[1]", "no JSON", '{"activation text": 3, "preferred weight": NaN}', "[" * 5000])
def test_a_strange_sidecar_says_nothing(host, lora_index, text):
    (host.lora_dirs[0] / "robot.json").write_text(text)
    lora_index.refresh()
    assert lora_index.file("robot").sidecar == Sidecar()


def test_previews(host, lora_index):
    folder = host.lora_dirs[0]
    for name in ("robot.preview.png", "robot.png", "style.PREVIEW.png", "other.png"):
        (folder / name).write_bytes(b"")
    lora_index.refresh()
    assert lora_index.preview("robot") == folder / "robot.png"
    assert lora_index.preview("style") is None
    (folder / "robot.png").unlink()
    lora_index.refresh()
    assert lora_index.preview("robot") == folder / "robot.preview.png"


def test_closing_ends_the_reading(host, held):
    index = LoraIndex(lambda: host.lora_dirs)
    index.refresh()
    ended = threading.Thread(target=index.close)
    ended.start()
    held.set()
    ended.join(LONG)
    assert not ended.is_alive()


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
