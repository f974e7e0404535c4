"""What a folder of pictures holds: whatever is not used is named, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_blocktrain.training.dataset import Dataset, DatasetError, find
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix in (".png", ".jpg", ".webp"):
            Image.new("RGB", (64, 64)).save(path)
        else:
            path.write_text("words", "utf-8")
    return folder


def found(folder: Path, **options: object) -> Dataset:
    return find(DatasetConfig((FolderConfig(str(folder), **options),), size=64), 64)


def masks(dataset: Dataset) -> dict[str, str | None]:
    return {image.path.name: image.mask and image.mask.name for image in dataset.images}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["gas_mask.jpg", "portrait_mask.jpg"], {"gas_mask.jpg": None, "portrait_mask.jpg": None}),
        (["gas.png", "gas_mask.jpg"], {"gas.png": "gas_mask.jpg"}),
        (["gas_mask.jpg", "gas_mask_mask.png"], {"gas_mask.jpg": "gas_mask_mask.png"}),
        (["gas.png", "gas_mask.png", "gas_mask_mask.png"], {"gas.png": "gas_mask.png", "gas_mask_mask.png": None}),
        (["_mask.png"], {"_mask.png": None}),
        (["a.jpg", "a-masklabel.png", "b.mask.png"], {"a.jpg": "a-masklabel.png", "b.mask.png": None}),
        (["a.png", "a_mask.png", "a_mask.webp"], {"a.png": "a_mask.png"}),
    ],
)
def test_a_mask_has_its_picture(tmp_path, names, expected):
    assert masks(found(files(tmp_path, *names))) == expected


def test_what_is_left_out_is_named(tmp_path):
    files(
        tmp_path, "a.png", "a.txt", "a.caption", "a.mask.png", "a_mask.png", "lost.txt", "notes.md", "b.npz", "in/c.png"
    )
    assert found(tmp_path, numbered=False).left_out == (
        f"{tmp_path}: a.caption: captions of pictures that have another caption",
        f"{tmp_path}: a_mask.png: masks of pictures that have another mask",
        f"{tmp_path}: b.npz, notes.md: not pictures (.bmp, .jpeg, .jpg, .png, .webp)",
        f"{tmp_path}: in: folders in a folder of pictures are not searched",
        f"{tmp_path}: lost.txt: captions without a picture",
    )


def test_beside_numbered_folders(tmp_path):
    files(tmp_path, "own.png", "3_a/a.png", "0_b/b.png", "sketches/c.png")
    dataset = found(tmp_path)
    assert [image.path.name for image in dataset.images] == ["a.png"]
    reason = "beside N_concept folders, of which alone the pictures are used"
    assert dataset.left_out == (f"{tmp_path}: 0_b, own.png, sketches: {reason}",)
    assert dataset.describe()["left_out"] == list(dataset.left_out)


def test_captions_of_another_ending(tmp_path):
    files(tmp_path, "a.png", "a.txt")
    assert found(tmp_path, caption_extensions=(".caption",)).left_out == (
        f"{tmp_path}: a.txt: not captions, which end in .caption here",
    )


def test_folders_that_are_used_are_not_left_out(tmp_path):
    files(tmp_path, "a.png", "masks/a.png", "masks/z.png", "held/b.png")
    folders = (FolderConfig(str(tmp_path), mask_folder=str(tmp_path / "masks")),)
    dataset = find(DatasetConfig(folders, validation=(FolderConfig(str(tmp_path / "held")),), size=64), 64)
    assert masks(dataset) == {"a.png": "a.png"}
    assert dataset.left_out == (f"{tmp_path / 'masks'}: z.png: a mask, but no picture has this name",)
    with pytest.raises(DatasetError, match="elsewhere: no such folder"):
        found(tmp_path, mask_folder=str(tmp_path / "elsewhere"))


def test_many_of_a_kind(tmp_path):
    files(tmp_path, "a.png", *(f"{number:02}.npz" for number in range(15)))
    [line] = found(tmp_path).left_out
    assert "09.npz and 5 more: not pictures" in line


@pytest.mark.parametrize("length", [241, 242, 246, 251])
def test_a_name_as_long_as_the_file_system_has(tmp_path, length):
    """Looked up beside it are longer names: of masks, of captions."""
    name = "a" * (length - 4)
    files(tmp_path, f"{name}.png", "b.png", "b_mask.png", "masks/b.png")
    (tmp_path / f"{name}.txt").write_text("a long name", "utf-8")
    dataset = found(tmp_path, mask_folder=str(tmp_path / "masks"), caption_extensions=(".description", ".txt"))
    assert masks(dataset) == {f"{name}.png": None, "b.png": "b_mask.png"}
    assert dataset.images[0].caption == "a long name"
