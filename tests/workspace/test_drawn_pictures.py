"""The pictures of the history on disk: found by name alone, the oldest removed, pinned ones kept."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image

from lib_blocktrain.workspace import drawn_pictures
from lib_blocktrain.workspace.drawn_pictures import DrawnPicture, PictureFolder
from lib_blocktrain.workspace.images import png_of


def picture(number: int = 0, side: int = 8) -> DrawnPicture:
    png = png_of(Image.new("RGB", (side, side), (200, 30, 30)))
    return DrawnPicture(number, "weights", "Under the weights", png, "a fox, seed 1", 1)


def test_saved_and_read(tmp_path):
    folder = PictureFolder(lambda: tmp_path)
    name = folder.save("0123456789abcdef", picture(2, 400))
    assert name == "0123456789abcdef-2.png"
    assert folder.read(name) == picture(2, 400).png
    with Image.open(io.BytesIO(folder.thumbnail(name))) as small:
        assert (small.format, small.size) == ("JPEG", (176, 176))


@pytest.mark.parametrize("name", ["../x.png", "0123456789abcdef-0.txt", "0123456789ABCDEF-0.png", "", "run.json"])
def test_other_names_are_no_pictures(tmp_path, name):
    folder = PictureFolder(lambda: tmp_path / "history")
    (tmp_path / "x.png").write_bytes(b"secret")
    with pytest.raises(ValueError, match="expected a name such as"):
        folder.read(name)
    with pytest.raises(ValueError, match="expected a name such as"):
        folder.pin([name], True)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "x.png").write_bytes(b"secret")
    (tmp_path / "0123456789abcdef-0.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError):
        PictureFolder(lambda: tmp_path).read("0123456789abcdef-0.png")


def test_the_oldest_go_and_pinned_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_pictures, "KEPT", 2)
    folder = PictureFolder(lambda: tmp_path)
    names = []
    for number in range(4):
        names.append(folder.save(f"{number:016x}", picture()))
        os.utime(tmp_path / names[-1], (1000 + number, 1000 + number))
        if number == 0:
            folder.pin(names, True)
    folder.save("f" * 16, picture())
    assert {path.name for path in tmp_path.glob("*.png")} == {names[0], names[3], f"{'f' * 16}-0.png"}
    folder.pin(names[:1], False)
    folder.save("e" * 16, picture())
    assert not (tmp_path / names[0]).exists()
