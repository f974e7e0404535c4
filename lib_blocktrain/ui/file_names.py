"""Names that people type become names of files, and never anything else."""

from __future__ import annotations

import re

from lib_blocktrain.files import names_device

LONGEST = 120  # characters; file systems take 255 bytes, suffix and temporary name included
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')


def checked_name(name: object) -> str:
    """The name of a file without its suffix; raises ValueError for one that could be a path or no file."""
    text = str(name or "").strip().removesuffix(".safetensors")
    refused = _REFUSED.search(text)
    if refused:
        raise ValueError(f"{text!r} cannot name a file: {refused[0]!r} is not allowed")
    if not text or text.startswith(".") or text.endswith((".", " ")) or names_device(text):
        raise ValueError(f"{text!r} cannot name a file: expected a name such as robot-outs")
    if len(text) > LONGEST or len(text.encode()) > 200:
        raise ValueError(f"a name of {len(text)} characters cannot name a file: expected up to {LONGEST}")
    return text
