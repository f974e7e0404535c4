"""Files: replaced, never overwritten in place."""

from __future__ import annotations

import os
import time

import pytest

from lib_blocktrain import files
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


def test_what_killed_writers_left_is_removed_in_the_end(tmp_path):
    """Only what this package leaves, and nothing that another process may be writing."""
    old, fresh, foreign = (tmp_path / name for name in (".robot.json.12-34.tmp", ".a.12-35.tmp", ".mine.tmp"))
    for path in (old, fresh, foreign):
        path.write_text("left")
    for path in (old, foreign):
        os.utime(path, (time.time() - 90_000,) * 2)
    for name in ("one", "two"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.12-35.tmp", ".mine.tmp", "one", "two"]


def test_a_killed_writers_file_is_known_by_its_name(tmp_path):
    """The names that are made are the names that are looked for, also shortened ones."""
    for name in ("a", "a" * 255, "Größe 1.safetensors", "a\nb"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("")
            assert files._TEMPORARY.fullmatch(temporary.name)
