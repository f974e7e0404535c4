"""Files: replaced, never overwritten in place."""

from __future__ import annotations

import pytest

from lib_blocktrain.files import atomic_write, remove_leftovers


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "short"])
def test_a_name_as_long_as_the_file_system_has(tmp_path, name):
    """The temporary name is longer than the file's, unless that would be too long."""
    path = tmp_path / name
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert [temporary] == list(tmp_path.iterdir())
        assert temporary in tmp_path.glob(".*.tmp")  # as `remove_leftovers` finds it
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".x.1-1.tmp").write_text("left")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
