"""The package's log in a WebUI's console: what is in a name or an error cannot steer the terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from lib_blocktrain.server.webui import restore_log, show_log_as_text

NAME = "a\x1b[2Jb\u202e.safetensors"
SHOWN = r"a\u001b[2Jb\u202e.safetensors"
log = logging.getLogger("lib_blocktrain.networks.files")


@pytest.fixture
def console() -> Iterator[io.StringIO]:
    """The stream of a handler of the WebUI's own."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    restore_log()
    logging.getLogger().removeHandler(handler)


def test_names_are_shown(console):
    show_log_as_text()
    show_log_as_text()  # "Reload UI": still once
    log.warning("%s cannot be read", NAME)
    assert console.getvalue() == f"{SHOWN} cannot be read\n"


def test_tracebacks_are_shown(console):
    show_log_as_text()
    try:
        raise ValueError(NAME)
    except ValueError:
        log.exception("failed")
    assert SHOWN in console.getvalue()
    assert "\x1b" not in console.getvalue()


def test_the_loggers_level_counts(console):
    show_log_as_text()
    logging.getLogger("lib_blocktrain").setLevel(logging.ERROR)
    try:
        log.warning("quiet")
    finally:
        logging.getLogger("lib_blocktrain").setLevel(logging.NOTSET)
    assert not console.getvalue()


def test_afterwards_the_log_is_as_before(console):
    show_log_as_text()
    restore_log()
    log.warning("plain")
    assert console.getvalue() == "plain\n"
    assert not logging.getLogger("lib_blocktrain").handlers
