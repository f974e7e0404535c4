"""Caption files as they are on the disk: UTF-8 with or without a mark, any line ends; what is written keeps both."""

from __future__ import annotations

import codecs
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib_blocktrain.files import LINE_END, lines_of
from lib_blocktrain.training.dataset import MAX_CAPTION

MAX_BYTES = 4 * MAX_CAPTION
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


def stamp_of(content: bytes | None) -> str:
    """A text that changes with the contents of a file; "" where there is none."""
    return "" if content is None else hashlib.blake2b(content, digest_size=8).hexdigest()


def read(path: Path) -> bytes | None:
    """The contents of a small file, None where there is none. Raises ValueError for a large one, and OSError."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: a caption of more than {MAX_CAPTION} characters: expected a line of text")
    return content


@dataclass(frozen=True)
class Caption:
    """The contents of a caption file, None where there is no file."""

    content: bytes | None

    @property
    def stamp(self) -> str:
        return stamp_of(self.content)

    @cached_property
    def raw(self) -> str:
        """The contents as text, with its line ends; raises ValueError if they are not UTF-8."""
        try:
            return (self.content or b"").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}: save the caption as UTF-8") from error

    @property
    def text(self) -> str:
        """All lines, ended by newlines, without those at the end; raises ValueError as `raw` does."""
        return LINE_END.sub("\n", self.raw).rstrip("\n")

    @property
    def first_line(self) -> str:
        """What training reads: the first line that is not empty, without spaces around it."""
        start, end = self._first_line()
        return self.raw[start:end]

    def with_text(self, text: str) -> bytes:
        """Return the contents for other text, with the mark and line ends as they are here. Raises ValueError."""
        try:
            raw = self.raw
        except ValueError:
            raw = ""  # of another encoding: it is replaced whole, as UTF-8
        ends = LINE_END.findall(raw)
        lines = LINE_END.sub("\n", text).rstrip("\n").split("\n")
        new = (ends[0] if ends else "\n").join(lines) + (ends[-1] if ends and raw.endswith(ends[-1]) else "")
        return self._encoded(new)

    def with_first_line(self, line: str) -> bytes:
        """Return the contents with another first line, and everything else as it is. Raises ValueError."""
        start, end = self._first_line()
        return self._encoded(self.raw[:start] + line + self.raw[end:])

    def _first_line(self) -> tuple[int, int]:
        stripped = self.raw.strip()
        line = lines_of(stripped)[0].strip() if stripped else ""
        start = len(self.raw) - len(self.raw.lstrip()) if stripped else 0
        return start, start + len(line)

    def _encoded(self, text: str) -> bytes:
        if refused := _NOT_TEXT.search(text):
            raise ValueError(f"a caption with the character {refused[0]!r}: expected text")
        mark = codecs.BOM_UTF8 if (self.content or b"").startswith(codecs.BOM_UTF8) else b""
        content = mark + text.encode("utf-8")
        lines = lines_of(text.strip())
        if len(content) > MAX_BYTES or (lines and len(lines[0]) > MAX_CAPTION):
            raise ValueError(f"a caption of {len(text)} characters: expected up to {MAX_CAPTION}")
        return content
