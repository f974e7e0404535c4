"""What the commands print: names, metadata and errors of files from outside, with what would steer the terminal shown.

As JSON writes it, so that the same text stands in the output of ``--json``.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from lib_blocktrain.files import visible


def one_line(text: str) -> str:
    """The text as `visible` gives it, its line ends shown too: as a part of a line it must not begin another."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def is_unicode() -> bool:
    """Whether stdout can have any character: redirected, on Windows, it cannot."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def say(text: str) -> None:
    """Write a line for people, on stderr."""
    _write(sys.stderr, f"{visible(text)}\n")


def answer(text: str) -> None:
    """Write what the command was asked for, on stdout."""
    _write(sys.stdout, f"{visible(text).rstrip()}\n")


def _write(stream: TextIO, text: str) -> None:
    """Write a text; of characters that the stream cannot have their numbers."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


class VisibleFormatter(logging.Formatter):
    """Of the log: as `visible`, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record, then show what would steer the terminal."""
        return visible(super().format(record))


def log_to_stderr(level: int) -> None:
    """Write the log to stderr from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
