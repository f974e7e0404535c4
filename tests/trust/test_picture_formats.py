"""A picture from outside is read as one of a few formats: none of Pillow's other readers sees its bytes.

Pillow goes by a file's content, so that an EPS named `a.png` would be run by Ghostscript, as the program it is.
"""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from lib_blocktrain.analysis.regions import read_mask
from lib_blocktrain.files import PICTURE_FORMATS
from lib_blocktrain.training.config import DatasetConfig, FolderConfig
from lib_blocktrain.training.dataset import find
from lib_blocktrain.ui import runs_pictures
from lib_blocktrain.workspace.images import read_png

PACKAGE = Path(__file__).resolve().parents[2] / "lib_blocktrain"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(hello) print\n%%EOF\n"
OTHERS = ("TIFF", "PPM", "TGA", "PCX", "ICO", "SGI", "JPEG2000", "DDS", "MSP", "XBM", "IM")


@pytest.fixture
def interpreted(monkeypatch) -> list[object]:
    """What is given to Ghostscript, which need not be installed."""
    given: list[object] = []

    def ghostscript(tile, size, fp, *rest, **options):
        given.append(fp)
        return Image.new("RGB", size).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    return given


def files() -> dict[str, bytes]:
    """Files of other formats, by the name of the format."""
    found = {
        "EPS": EPS,
        "PSD": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x40\0\0\0\x40\0\x08\0\3" + bytes(64 * 64 * 3 + 14),
    }
    for name in OTHERS:
        content = io.BytesIO()
        try:
            Image.new("1" if name in ("MSP", "XBM") else "RGB", (64, 64)).save(content, name)
        except (KeyError, OSError):  # this Pillow was built without it
            continue
        found[name] = content.getvalue()
    return found


def test_the_files_are_of_other_formats():
    assert {"EPS", "PSD", "TIFF", "PPM"} <= set(files())
    for name, content in files().items():
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == name


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("kind", sorted(files()))
def test_a_dataset_reads_no_other_format(tmp_path, interpreted, kind, ending):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    (tmp_path / f"a{ending}").write_bytes(files()[kind])
    dataset = find(DatasetConfig(folders=(FolderConfig(str(tmp_path)),)), 64)
    assert [image.path.name for image in dataset.images] == ["good.png"]
    [reason] = dataset.broken
    assert f"a{ending}: expected PNG, JPEG, WEBP, BMP or GIF" in reason
    assert not interpreted


def test_a_dataset_reads_no_other_format_as_a_mask(tmp_path, interpreted):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    (tmp_path / "a.mask.png").write_bytes(EPS)
    dataset = find(DatasetConfig(folders=(FolderConfig(str(tmp_path)),)), 64)
    [reason] = dataset.broken
    assert "a.mask.png: expected PNG" in reason
    assert not interpreted


@pytest.mark.parametrize("kind", sorted(files()))
def test_an_analysis_reads_no_other_format_as_a_mask(tmp_path, interpreted, kind):
    (tmp_path / "mask.png").write_bytes(files()[kind])
    with pytest.raises(ValueError, match=r"mask\.png: expected a picture as the mask: PNG, JPEG, WEBP, BMP or GIF"):
        read_mask(tmp_path / "mask.png", "mask.png")
    with pytest.raises(ValueError, match=r"the mask: expected a picture as the mask: PNG or JPEG"):
        read_mask(io.BytesIO(files()[kind]), "the mask", formats=("PNG", "JPEG"))
    assert not interpreted


def test_a_run_shows_no_other_format_as_a_sample(tmp_path, interpreted):
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(OSError, match="cannot identify"):
        runs_pictures._reduced(tmp_path / "a.png", 0)
    assert not interpreted


def test_parameters_are_read_from_no_other_format(tmp_path, interpreted):
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(ValueError, match="is not a PNG"):
        read_png(tmp_path / "a.png")
    assert not interpreted


@pytest.mark.parametrize("kind", PICTURE_FORMATS)
def test_the_few_formats_are_read_under_any_name(tmp_path, kind):
    """Tools that fetch pictures name a WebP `.jpg`."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.jpg", kind)
    dataset = find(DatasetConfig(folders=(FolderConfig(str(tmp_path)),)), 64)
    assert [image.path.name for image in dataset.images] == ["a.jpg"]
    assert read_mask(tmp_path / "a.jpg", "a.jpg").size == (64, 64)


def test_nothing_opens_a_picture_without_saying_which_formats():
    calls = [
        (path, call)
        for path in sorted(PACKAGE.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("Image.open", "PIL.Image.open")
    ]
    assert len(calls) >= 4
    for path, call in calls:
        assert "formats" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"
