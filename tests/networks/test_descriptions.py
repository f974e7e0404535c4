"""Many files described at once: the same answers as one by one, and each set of tensors looked at once."""

from __future__ import annotations

import json

import pytest

from lib_blocktrain.networks import contents
from lib_blocktrain.networks.contents import Descriptions, describe
from lib_blocktrain.networks.header import NetworkFileError
from tests.browser.room_loras import write_loras
from tests.fakes import write_lora
from tests.networks.test_contents import FOREIGN, file_of
from tests.networks.test_peft_config import LORA, folder_with


def said_of(path, describe=describe):
    try:
        return describe(path)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture
def looked_at(monkeypatch):
    paths = []
    contents_of = contents.contents_of
    monkeypatch.setattr(contents, "contents_of", lambda path, header: paths.append(path) or contents_of(path, header))
    return paths


def test_a_users_folder(tmp_path):
    write_loras(tmp_path, 120)
    paths = sorted(tmp_path.rglob("*.safetensors"))
    descriptions = Descriptions()
    said = {path: said_of(path, descriptions.describe) for path in paths}
    assert said == {path: said_of(path) for path in paths}
    found = [one for one in said.values() if isinstance(one, dict)]
    assert {one["architecture"] for one in found} == {"sd1", "sdxl"}
    assert len(paths) / 4 < len(found) < len(paths) * 0.8  # the others are for other models, or broken


@pytest.mark.parametrize("case", FOREIGN)
def test_networks_of_other_models_are_refused_by_their_own_names(tmp_path, case, looked_at):
    descriptions = Descriptions()
    for name in ("a", "b"):
        path = file_of(tmp_path / f"{name}.safetensors", FOREIGN[case][1])
        assert said_of(path, descriptions.describe) == said_of(path)
    assert looked_at.count(tmp_path / "b.safetensors") == 1  # by `describe` alone


def test_files_that_differ_in_metadata_alone_are_looked_at_once(tmp_path, looked_at):
    descriptions = Descriptions()
    names = [f"name {number} " + "x" * number for number in range(12)]  # of all lengths, as the header is padded
    for name in names:
        path = write_lora(tmp_path / "a file.safetensors", ss_output_name=name)
        assert descriptions.describe(path)["metadata"] == {"ss_output_name": name}
    assert len(looked_at) == 1
    write_lora(path, {"OUT03": "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k"})
    assert descriptions.describe(path)["blocks"]["IN04"] == 0
    assert len(looked_at) == 2


def test_answers_do_not_share_what_a_caller_may_change(tmp_path):
    path, descriptions = write_lora(tmp_path / "a.safetensors", a="b"), Descriptions()
    for _ in range(2):
        answer = descriptions.describe(path)
        answer["metadata"]["a"] = "c"
        answer["notices"] += ["more"]
        answer["blocks"].clear()
    assert descriptions.describe(path) == describe(path)


def test_a_file_that_is_cut_short_is_no_whole_one(tmp_path):
    descriptions = Descriptions()
    path = write_lora(tmp_path / "a.safetensors", a="b")
    descriptions.describe(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(NetworkFileError, match="cut short"):
        descriptions.describe(path)
    path.write_bytes(content)
    assert descriptions.describe(path) == describe(path)


@pytest.mark.parametrize("name", ["__metadata__", "\\u005f_metadata__"])
def test_metadata_that_stand_twice(tmp_path, name):
    """The last count, for JSON's readers; so they are no part of what files have in common."""
    descriptions = Descriptions()
    for first in ("x", "y"):
        path = write_lora(tmp_path / "a.safetensors", a=first)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].decode().rstrip()[:-1] + f',"{name}":{{"a":"x"}}}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + content[8 + length :])
        assert descriptions.describe(path)["metadata"] == describe(path)["metadata"] == {"a": "x"}


def test_pefts_configuration_beside_a_file_counts(tmp_path, looked_at):
    path, descriptions = folder_with(tmp_path, LORA), Descriptions()
    assert descriptions.describe(path)["notices"] == []
    (tmp_path / "adapter_config.json").unlink()
    assert "alpha is not known" in descriptions.describe(path)["notices"][0]
    (tmp_path / "adapter_config.json").write_text(json.dumps({**LORA, "init_lora_weights": "pissa"}))
    with pytest.raises(NetworkFileError, match="pissa"):
        descriptions.describe(path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    assert descriptions.describe(path)["notices"] == []
    assert len(looked_at) == 3
