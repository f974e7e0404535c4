"""The bounded cache of results."""

from __future__ import annotations

import pytest

from lib_blocktrain.workspace.recent import Recent


def test_the_entry_used_the_longest_ago_is_dropped():
    recent = Recent(2)
    recent["a"], recent["b"] = 1, 2
    assert recent["a"] == 1
    recent["c"] = 3
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    with pytest.raises(KeyError):
        recent["b"]


def test_an_entry_set_again_counts_as_used():
    recent = Recent(2)
    recent["a"], recent["b"], recent["a"] = 1, 2, 3
    recent["c"] = 4
    assert [recent.get(key) for key in "abc"] == [3, None, 4]
