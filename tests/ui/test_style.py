"""style.css has no rule for a class that no page gives."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CSS = (ROOT / "style.css").read_text("utf-8")
SOURCES = [
    *(ROOT / "lib_blocktrain").rglob("*.py"),
    *(ROOT / "scripts").glob("*.py"),
    *(ROOT / "javascript").glob("*.js"),
]
TEXT = "\n".join(path.read_text("utf-8") for path in SOURCES)


def test_every_class_is_given_by_the_page():
    given = set(re.findall(r"blocktrain-[\w-]+", TEXT))
    # f"blocktrain-part-{part}", `blocktrain-is-${kind}`, "blocktrain-bar-{}": which ends there are is not looked for
    beginnings = tuple(set(re.findall(r"blocktrain-[\w-]+-(?=\{|\$\{)", TEXT)))
    styled = set(re.findall(r"\.(blocktrain-[\w-]+)", CSS))
    assert len(styled) > 300
    assert sorted(name for name in styled - given if not name.startswith(beginnings)) == []
