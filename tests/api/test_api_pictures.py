"""The pictures of Preview's history over HTTP: only they, and only with the password where there is one."""

from __future__ import annotations

import pytest
from PIL import Image

from lib_blocktrain.api.access import Access
from lib_blocktrain.workspace.images import png_of

NAME = "0123456789abcdef-2.png"


@pytest.fixture
def png(host) -> bytes:
    folder = host.output_dir / "blocktrain" / "history"
    folder.mkdir(parents=True)
    content = png_of(Image.new("RGB", (300, 200), (10, 90, 200)))
    (folder / NAME).write_bytes(content)
    (folder / "notes.png").write_bytes(content)
    return content


def test_a_picture_and_its_thumbnail(client, png):
    whole = client.get(f"/pictures/{NAME}")
    assert (whole.content, whole.headers["content-type"]) == (png, "image/png")
    small = client.get(f"/pictures/{NAME}", params={"small": True})
    assert small.headers["content-type"] == "image/jpeg"
    assert len(small.content) > 100


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("notes.png", 400),
        ("..%2Frobot.png", 404),
        ("fedcba9876543210-0.png", 404),
        ("0123456789abcdef-2.txt", 400),
    ],
)
def test_nothing_else(client, png, name, status):
    assert client.get(f"/pictures/{name}").status_code == status


def test_the_password_is_asked_for(serve, png):
    assert serve(Access(credentials=(("a", "b"),))).get(f"/pictures/{NAME}").status_code == 401
