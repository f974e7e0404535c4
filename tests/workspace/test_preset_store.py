"""The store of presets: what the paste box takes, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_blocktrain.weights.preset_strings import PresetStringError
from lib_blocktrain.workspace.preset_store import PresetExists, PresetStore


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


def test_a_shipped_preset_is_hidden_only_when_asked_for(store):
    mine = store.parse("OUT=0.5", "sd1").weights
    before = store.parse("OUTD", "sd1").weights
    for replace in (False, True):
        if not replace:
            with pytest.raises(
                PresetExists, match=r"'OUTD' comes with the extension, and yours would take its place: .*tick"
            ):
                store.save(" OUTD ", mine)
            assert not store.own.path.exists()
            assert store.parse("OUTD", "sd1").weights == before
        else:
            store.save("OUTD", mine, replace=True)
            assert store.parse("OUTD", "sd1").weights == mine
    with pytest.raises(PresetExists, match="there is a preset 'OUTD' already"):
        store.save("OUTD", mine)
    store.delete("OUTD")
    assert store.parse("OUTD", "sd1").weights == before


def test_a_preset_is_not_renamed_to_a_taken_name(store):
    store.save("MINE", store.parse("OUT=0.5", "sd1").weights)
    store.save("OTHER", store.parse("OUT=0.25", "sd1").weights)
    with pytest.raises(PresetExists, match="'OUTD' comes with the extension"):
        store.rename("MINE", " OUTD ")
    with pytest.raises(PresetExists, match="there is a preset 'OTHER' already"):
        store.rename("MINE", "OTHER")
    store.rename("MINE", "NEW")
    assert set(store.own.read().presets) == {"NEW", "OTHER"}


def test_a_name_has_a_limit(store):
    weights = store.parse("OUT=0.5", "sd1").weights
    store.save("n" * 120, weights)
    for name in ("n" * 121, "n" * 100_000):
        with pytest.raises(
            ValueError, match=f"a name of {len(name)} characters cannot name a preset: expected up to 120"
        ):
            store.save(name, weights)
        with pytest.raises(ValueError, match="expected up to 120"):
            store.rename("n" * 120, name)


def test_a_longer_name_that_a_file_has_is_read(store):
    """Of an earlier version, or written by hand."""
    store.own.path.write_text(f"{'n' * 300}:OUT=1,BASE=1\nSHORT:ALL\n".replace("ALL", "OUT=0"), "utf-8")
    assert set(store.own.read().presets) == {"n" * 300, "SHORT"}
    assert store.problems() == ()
    store.rename("n" * 300, "LESS")


def test_weights_are_written_as_the_nearest_preset_with_changes_where_that_is_shorter(store):
    def shortest(text: str, preferred: str = "") -> str:
        weights = store.parse(text, "sd1").weights
        written = store.shortest(weights, preferred)
        assert store.parse(f"<lora:x:1:bw={written}>", "sd1").weights == weights
        return written

    assert store.exact(store.parse("OUTD", "sd1").weights) == "OUTD"
    assert store.exact(store.parse("OUTD,IN08=-0.4", "sd1").weights) is None
    assert shortest("ALL,IN08=-0.4") == "ALL,IN08=-0.4"
    assert shortest("OUTD,IN08=-0.4", "OUTD") == "OUTD,IN08=-0.4"
    assert shortest("OUTD,OUT03=0,OUT04=0,OUT05=0", "OUTD").startswith("OUTD,")  # though NONE is shorter
    values = ",".join(f"0.{number}1" for number in range(11, 37))
    assert shortest(values, "OUTD") == values
    store.save("a > b", store.parse(values, "sd1").weights)
    assert shortest(values) == values  # a tag ends at >
