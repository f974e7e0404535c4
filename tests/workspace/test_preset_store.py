"""The store of presets: what the paste box takes, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.workspace.preset_store import PresetStore


@pytest.fixture
def store(tmp_path) -> PresetStore:
    path = tmp_path / "presets.txt"
    return PresetStore(lambda: Path(path))


def test_a_whole_tag_is_read_as_its_weights(store):
    assert store.parse("<lora:x:1:lbw=OUTALL>", "sd1").weights == store.parse("OUTALL", "sd1").weights
    parsed = store.parse("<lora:x:1:bw=OUT=X,IN=0:x=0.25>", "sd1")
    assert parsed.weights == store.parse("OUT=0.25,IN=0", "sd1").weights
    with pytest.raises(PresetStringError, match="'<lora:x:1>' has no block weights: expected bw="):
        store.parse("<lora:x:1>", "sd1")
