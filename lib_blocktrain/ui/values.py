"""How events speak: from the widgets' values by name to what changes, by name."""

from __future__ import annotations

from collections.abc import Mapping

Values = dict[str, object]
Changes = Mapping[str, object]  # a widget's name to its new value, or to Properties


class Properties(dict):
    """Properties of a widget that change: ``Properties(value=1, interactive=False)``."""
