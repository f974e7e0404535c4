"""What the commands print: names, metadata and errors of files from outside, with what would steer the terminal shown.

As JSON writes it, so that the same text stands in the output of ``--json``.
"""

from __future__ import annotations

import logging
import sys

from lib_blocktrain.files import visible


def one_line(text: str) -> str:
    """The text as `visible` gives it, its line ends shown too: as a part of a line it must not begin another."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: str) -> None:
    """Write a line for people, on stderr."""
    sys.stderr.write(f"{visible(text)}\n")


def answer(text: str) -> None:
    """Write what the command was asked for, on stdout."""
    sys.stdout.write(f"{visible(text).rstrip()}\n")


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
