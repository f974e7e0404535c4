"""The folder of uploads: one for each server, removed at its end, or after a kill at the start of the next."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from lib_blocktrain.files import ROOT
from lib_blocktrain.server import app

SERVER = """
import os, sys
from lib_blocktrain.server import app
with app._private_uploads():
    os.makedirs(os.environ[app.UPLOADS], exist_ok=True)
    open(os.path.join(os.environ[app.UPLOADS], "dataset.png"), "w").close()
    print(os.environ[app.UPLOADS], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv(app.UPLOADS, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def another_server() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a folder of uploads, and that folder."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_is_private_and_removed_at_the_end():
    with app._private_uploads():
        folder = Path(os.environ[app.UPLOADS]).parent
        if os.name != "nt":
            assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    assert app.UPLOADS not in os.environ


def test_what_a_killed_server_left_is_removed_by_the_next(temporary):
    with another_server() as (process, uploads):
        assert (uploads / "dataset.png").exists()
        process.kill()
        process.wait()
        assert (uploads / "dataset.png").exists()
    with app._private_uploads():
        assert not uploads.exists()
        assert [folder.name for folder in temporary.iterdir()] == [Path(os.environ[app.UPLOADS]).parent.name]
    assert not [*temporary.iterdir()]


def test_a_living_servers_uploads_stay():
    with another_server() as (_, uploads):
        with app._private_uploads():
            assert (uploads / "dataset.png").exists()
        assert (uploads / "dataset.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_what_is_no_folder_of_uploads_stays(temporary, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "lock").touch()
    (elsewhere / "mine.txt").touch()
    (temporary / "blocktrain-uploads-link").symlink_to(elsewhere)
    (temporary / "blocktrain-uploads-nolock").mkdir()
    (temporary / "blocktrain-uploads-linked").mkdir()
    (temporary / "blocktrain-uploads-linked" / "lock").symlink_to(elsewhere / "mine.txt")
    (temporary / "blocktrain-notes").mkdir()
    before = sorted(temporary.rglob("*"))
    with app._private_uploads():
        pass
    assert sorted(temporary.rglob("*")) == before
    assert (elsewhere / "mine.txt").exists()
