"""Pictures and captions of a dataset, and pictures that are dropped into the tab."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_blocktrain.training.config import DatasetConfig, FolderConfig
from lib_blocktrain.training.dataset import MAX_CAPTION, Dataset, DatasetError, DatasetImage, find
from lib_blocktrain.workspace.images import read_png
from tests.trust.junk import damaged_bytes
from tests.trust.tally import bounded, fuzz, refused

GREY = 100  # of 255


def found(folder: Path, **options: object) -> Dataset:
    return find(DatasetConfig(folders=(FolderConfig(str(folder)),), size=64, **options), 64)


def encoded(mode: str, format: str, size: tuple[int, int] = (80, 60), **options: object) -> bytes:
    """A picture of one grey, in any mode and format."""
    image = Image.new("L", size, GREY).convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.full(size[::-1], GREY * 257, dtype=np.uint16))
    elif mode != "RGB":
        image = image.convert(mode)
    content = io.BytesIO()
    image.save(content, format=format, **options)
    return content.getvalue()


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (80, 60), (grey, grey, grey)) for grey in (GREY, 200, 250)]
    content = io.BytesIO()
    frames[0].save(content, format=format, save_all=True, append_images=frames[1:], lossless=True)
    return content.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    return encoded("RGB", "JPEG", exif=exif, quality=100)


KINDS = {
    "RGB.png": lambda: encoded("RGB", "PNG"),
    "grey.png": lambda: encoded("L", "PNG"),
    "one-bit.png": lambda: encoded("1", "PNG"),
    "palette.png": lambda: encoded("P", "PNG"),
    "alpha.png": lambda: encoded("RGBA", "PNG"),
    "grey-alpha.png": lambda: encoded("LA", "PNG"),
    "16-bit.png": lambda: encoded("I;16", "PNG"),
    "animated.png": lambda: animated("PNG"),
    "RGB.jpg": lambda: encoded("RGB", "JPEG", quality=100),
    "CMYK.jpg": lambda: encoded("CMYK", "JPEG", quality=100),
    "grey.jpeg": lambda: encoded("L", "JPEG", quality=100),
    "turned.jpg": turned,
    "RGB.webp": lambda: encoded("RGB", "WEBP", lossless=True),
    "animated.webp": lambda: animated("WEBP"),
    "RGB.bmp": lambda: encoded("RGB", "BMP"),
    "palette.bmp": lambda: encoded("P", "BMP"),
    "GIF inside.png": lambda: encoded("P", "GIF"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pictures(tally, tmp_path, name):
    """All are RGB of the bucket's size in training, and the grey is the grey: of 16 bits, of inks, of a palette too."""
    (tmp_path / name).write_bytes(KINDS[name]())
    with tally.case("pictures"):
        picture = found(tmp_path).images[0]
        opened = picture.open()
        assert opened.mode == "RGB"
        assert opened.size == picture.fit.bucket
        assert picture.fit.original == ((60, 80) if name == "turned.jpg" else (80, 60))
        if name != "one-bit.png":
            assert abs(float(np.asarray(opened).mean()) - GREY) < 4


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of 8 bit grey with whatever behind its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def squeezed(size: int) -> bytes:
    """So many zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size >> 20)), packer.flush()])


BOMBS = {
    "declared.png": lambda: png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(100)))),
    "within Pillow's limit.png": lambda: png(13_000, 13_000, chunk(b"IDAT", zlib.compress(bytes(100)))),
    "zero.png": lambda: png(0, 10, chunk(b"IDAT", zlib.compress(b""))),
    "needle.png": lambda: png(1, 4_000_000, chunk(b"IDAT", squeezed(8 << 20))),
    "text.png": lambda: png(8, 8, *[chunk(b"zTXt", b"a%d\0\0" % n + squeezed(16 << 20)) for n in range(2)]),
    "zero.bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
    "negative.bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -9, 9, 1, 24, 0, 0, 0, 0, 0, 0),
    "nothing.jpg": lambda: b"",
    "cut.jpg": lambda: encoded("RGB", "JPEG", (500, 500))[:-900],
    "cut.webp": lambda: encoded("RGB", "WEBP", (500, 500))[:60],
    "words.png": lambda: b"these are words",
    "folder.png": None,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_broken_pictures(tally, tmp_path, name):
    """Named with the reason and left out, without the memory that they ask for; what is sound beside them is used."""
    path = tmp_path / name
    if BOMBS[name] is None:
        path.mkdir()
    else:
        path.write_bytes(BOMBS[name]())
    (tmp_path / "sound.png").write_bytes(KINDS["RGB.png"]())
    with tally.case("pictures", fault=True), bounded(seconds=20):
        dataset = found(tmp_path)
        assert [picture.path.name for picture in dataset.images] == ["sound.png"]
        assert len(dataset.broken) == 1
        assert str(path) in dataset.broken[0]
    (tmp_path / "sound.png").unlink()
    with tally.case("pictures", fault=True), pytest.raises(DatasetError, match="none of 1 can be read") as caught:
        found(tmp_path)
    assert str(path) in str(caught.value)


def test_damaged_pictures(tally, tmp_path):
    valid = [KINDS[name]() for name in ("RGB.png", "palette.png", "16-bit.png", "turned.jpg", "CMYK.jpg", "RGB.bmp")]
    valid += [KINDS["animated.webp"](), KINDS["animated.png"](), KINDS["GIF inside.png"]()]
    (tmp_path / "sound.png").write_bytes(KINDS["RGB.png"]())
    path = tmp_path / "damaged.png"

    def check(content):
        with tally.case("pictures") as case:
            path.write_bytes(content)
            dataset = found(tmp_path)
            case.fault = bool(dataset.broken)
            for picture in dataset.images:
                assert picture.open().size == picture.fit.bucket
            for line in dataset.broken:
                assert str(path) in line

    fuzz(damaged_bytes(valid), check, tally.scale.examples)


def test_a_broken_mask(tally, tmp_path):
    """It would fail in the middle of training: it is found before, and costs its picture only."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(KINDS["RGB.png"]())
    (tmp_path / "a.mask.png").write_bytes(b"no mask")
    with tally.case("pictures", fault=True):
        dataset = found(tmp_path)
        assert [picture.path.name for picture in dataset.images] == ["b.png"]
        assert "a.mask.png" in dataset.broken[0]


def test_a_picture_that_went_away(tally, tmp_path):
    (tmp_path / "a.png").write_bytes(KINDS["RGB.png"]())
    picture: DatasetImage = found(tmp_path).images[0]
    picture.path.unlink()
    with tally.case("pictures", fault=True):
        assert refused(picture.open, str(tmp_path / "a.png"), "No such file")


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"\xef\xbb\xbfa robot\r\n", "a robot"),
        ("ein Roboter, größer".encode(), "ein Roboter, größer"),
        (b"", ""),
        (b"a\0b", "a\0b"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("größer".encode("latin-1"), "not UTF-8 at byte 2"),
        ("a robot".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"a" * (MAX_CAPTION + 1), "a caption of more than"),
        (b"\n" * 10_000_000, "a caption of more than"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_captions(tally, tmp_path, content, caption):
    (tmp_path / "a.png").write_bytes(KINDS["RGB.png"]())
    (tmp_path / "b.png").write_bytes(KINDS["RGB.png"]())
    (tmp_path / "a.txt").write_bytes(content)
    with tally.case("captions") as case, bounded():
        dataset = found(tmp_path)
        if dataset.broken:
            case.fault = True
            assert f"{tmp_path / 'a.txt'}: {caption}" in dataset.broken[0]
        else:
            assert dataset.images[0].caption == caption


def test_an_enormous_caption(tally, tmp_path):
    """A file of a GiB, of which no more is read than a caption may have."""
    (tmp_path / "a.png").write_bytes(KINDS["RGB.png"]())
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(2**30)
    with tally.case("captions", fault=True), bounded(mib=50):
        assert refused(lambda: found(tmp_path), "a.txt", "a caption of more than")


def test_a_date_is_no_number_of_repeats(tally, tmp_path):
    """sd-scripts' `N_concept` read from `20240131_holiday`: twenty million repeats of each picture."""
    folder = tmp_path / "20240131_holiday"
    folder.mkdir()
    (folder / "a.png").write_bytes(KINDS["RGB.png"]())
    with tally.case("captions", fault=True), bounded():
        assert refused(lambda: found(tmp_path), str(folder), "20240131 times")


def test_parameters_in_damaged_pngs(tally, tmp_path):
    path = tmp_path / "a.png"
    info = PngInfo()
    info.add_text("parameters", "a robot\nSteps: 20, Sampler: DDIM, Seed: 1, LoRA 1: robot, Block weights 1: ALL")
    info.add_text("other", "words" * 100, zip=True)
    info.add_itxt("more", "Wörter", "de", "mehr", zip=True)
    valid = encoded("RGB", "PNG", pnginfo=info)

    def check(content):
        with tally.case("parameters of a picture") as case:
            path.write_bytes(content)
            case.fault = refused(lambda: read_png(path).loras) is not None

    fuzz(damaged_bytes([valid]) | st.binary(max_size=50), check, tally.scale.examples)
    for name in ("declared.png", "text.png"):
        path.write_bytes(BOMBS[name]())
        with tally.case("parameters of a picture", fault=True), bounded(seconds=20):
            assert refused(lambda: read_png(path), path.name)
