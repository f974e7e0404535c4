"""Sets of pictures: made, filled, listed, captioned, masked, and every change taken back."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_blocktrain.training.dataset import find
from lib_blocktrain.workspace import caption_files, set_changes
from lib_blocktrain.workspace.picture_sets import PictureSets
from lib_blocktrain.workspace.set_changes import ChangedMeanwhile
from lib_blocktrain.workspace.set_uploads import Upload
from tests.fakes import FakeHost


def picture(seed: int, size=(96, 96)) -> Image.Image:
    """Coarse noise, so that no two look the same."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def filled(folder: Path, captions: dict[str, str | None], size=(96, 96)) -> Path:
    """A folder of pictures with these captions, by the names of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, caption) in enumerate(captions.items()):
        picture(number, size).save(folder / name)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_bytes(caption.encode())
    return folder


@pytest.fixture
def host(tmp_path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def sets(host):
    sets = PictureSets(host)
    yield sets
    sets.close()


@pytest.fixture
def robots(host, sets) -> Path:
    """The own set `robot`: three captions, one picture without; returns the folder of its pictures."""
    sets.create("robot", 10)
    folder = host.output_dir / "datasets" / "robot" / "10_robot"
    return filled(
        folder, {"a.png": "robot, red hat", "b.png": "robot, blue hat", "c.png": "large, robot", "d.png": None}
    )


def captions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.txt"))}


# --- sets -------------------------------------------------------------------------------------------------------------


def test_a_set_is_made_and_listed_and_its_repeats_change(host, sets, robots):
    made = sets.get("robot").to_json()
    assert (made["pictures"], made["repeats"], made["kind"], made["cover"]) == (4, 10, "own", "robot/a.png")
    with pytest.raises(FileExistsError, match="'Robot'"):
        sets.create("Robot")
    sets.apply("robot", {"op": "trigger", "word": "ohwx"})
    assert sets.set_repeats("robot", 3).to_json()["repeats"] == 3
    folder = robots.with_name("3_robot")
    assert folder.is_dir()
    assert not robots.exists()
    assert sets.listing("robot").to_json()["pictures"][0]["picture"] == "robot/a.png"  # its key stays
    sets.undo("robot")  # of before the folder was renamed
    assert captions(folder)["a.txt"] == b"robot, red hat"
    with pytest.raises(ValueError, match="repeats 0: expected 1 to"):
        sets.set_repeats("robot", 0)
    assert [found.key for found in sets.sets()] == ["robot"]


@pytest.mark.parametrize("key", ["", ".", "..", "../x", "robot/10_robot", "~", "~000000000000", "nul", "opened.json"])
def test_a_key_is_looked_up(sets, robots, key):
    with pytest.raises(FileNotFoundError, match="there is no set"):
        sets.listing(key)
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        sets.thumbnail("robot", f"robot/{key}/../a.png")


def test_folders_are_opened_below_the_roots(host, tmp_path, robots):
    inside = filled(tmp_path / "pictures" / "5_cat", {"x.png": "cat"})
    outside = filled(tmp_path / "private", {"y.png": None})
    roots = [tmp_path / "pictures"]
    sets = PictureSets(host, lambda: roots)
    opened = sets.open(str(inside))
    assert (opened.kind, opened.to_json()["repeats"]) == ("folder", 5)
    assert [found.name for found in sets.sets()] == ["robot", "5_cat"]
    for path in (outside, inside / ".." / ".." / "private", "relative", "", tmp_path / "missing"):
        with pytest.raises(ValueError, match="expected"):
            sets.open(str(path))
    with pytest.raises(ValueError, match="are in the name of"):
        sets.set_repeats(opened.key, 2)
    again = PictureSets(host, lambda: roots)  # after a restart
    assert [picture["name"] for picture in again.listing(opened.key).to_json()["pictures"]] == ["x.png"]
    (inside / "link.png").symlink_to(outside / "y.png")
    listing = again.listing(opened.key)
    assert [one.entry.path.name for one in listing.pictures] == ["x.png"]
    assert "link.png: leads to a file that the settings do not allow" in listing.contents.left_out[0]
    roots[:] = [tmp_path / "other"]  # the setting changed: it is listed, and cannot be read
    assert "expected something in" in again.sets()[1].to_json()["problem"]
    with pytest.raises(ValueError, match="expected something in"):
        again.thumbnail(opened.key, "cat/x.png")
    with pytest.raises(ValueError, match="only a folder that was opened"):
        again.close_set("robot")
    again.close_set(opened.key)
    assert [found.key for found in again.sets()] == ["robot"]


def test_a_toml_opens_and_says_what_it_does_not_know(sets, tmp_path):
    pytest.importorskip("tomllib", reason="Python 3.11's")
    filled(tmp_path / "cats", {"x.png": None})
    toml = tmp_path / "cats.toml"
    subset = 'image_dir = "cats"\nnum_repeats = 7\nclass_tokens = "cat"\ncaption_extension = ".caption"\n'
    toml.write_text(f"[general]\nwildcard = 3\n[[datasets]]\nresolution = 768\n[[datasets.subsets]]\n{subset}", "utf-8")
    opened = sets.open(str(toml))
    assert opened.to_json()["repeats"] == 7
    assert opened.notices == ("cats.toml: wildcard not known here: ignored",)
    listed = sets.listing(opened.key, 512).to_json()["pictures"][0]
    assert listed["bucket"] == [768, 768]  # of the file, whatever is asked for
    assert listed["caption_used"] == "cat"
    sets.write_caption(opened.key, listed["picture"], "a cat", "")
    assert (tmp_path / "cats" / "x.caption").read_text("utf-8") == "a cat"
    with pytest.raises(ValueError, match="num_repeats in"):
        sets.set_repeats(opened.key, 2)


# --- adding -----------------------------------------------------------------------------------------------------------


def test_files_are_added_and_the_others_refused_by_name(sets, robots, tmp_path):
    def upload(name: str, content: bytes) -> Upload:
        path = tmp_path / f"upload-{len(list(tmp_path.glob('upload-*')))}"
        path.write_bytes(content)
        return Upload(path, name)

    data = io.BytesIO()
    picture(9).save(data, "PNG")
    png = data.getvalue()
    before = (robots / "a.png").read_bytes()
    given = [
        *(upload("dropped/new.PNG", png), upload("new.txt", b"a hat"), upload("new.mask.png", png)),
        *(upload("A.png", png), upload("a.jpg", png), upload("a.caption", b"other"), upload("evil.svg", b"<svg/>")),
        *(
            upload("cut.png", png[:200]),
            upload("page.png", b"<html>"),
            upload("bad.txt", b"\xff"),
            upload("CON.png", png),
        ),
        *(upload("..", png), upload("../../up.png", png), upload("a:b.png", png), upload("x" * 300 + ".png", png)),
        *(upload(".png", png), upload("nul.txt", b"x"), upload("\ud800.png", png), upload("blocktrain.json", b"{}")),
    ]
    added = sets.add("robot", given).to_json()
    assert added["added"] == ["new.png", "new.txt", "new.mask.png", "up.png"]
    assert len(added["refused"]) == len(given) - 4
    reasons = dict(added["refused"])
    for name, reason in {
        "A.png": "a.png already, and nothing is overwritten",
        "a.jpg": "a picture of the same name, a.png",
        "a.caption": "another caption of the same picture, a.txt",
        "evil.svg": "expected a picture",
        "page.png": "damaged, or something else",
        "bad.txt": "not UTF-8 at byte 0",
        "CON.png": "cannot name a file",
        "blocktrain.json": "expected a picture",
    }.items():
        assert reason in reasons[name]
        assert str(tmp_path) not in reasons[name]
    assert (robots / "a.png").read_bytes() == before
    assert not list(tmp_path.parent.glob("up.png"))
    listed = {one["name"]: one for one in sets.listing("robot").to_json()["pictures"]}
    assert (listed["new.png"]["caption"], listed["new.png"]["mask"]) == ("a hat", "new.mask.png")


def test_dropped_folders_bring_their_labels(host, sets, tmp_path):
    def uploads(*names: str) -> list[Upload]:
        for number in range(len(names)):
            picture(number).save(tmp_path / f"{number}.png")
        return [Upload(tmp_path / f"{number}.png", name) for number, name in enumerate(names)]

    def folders() -> list[str]:
        return sorted(path.name for path in (host.output_dir / "datasets" / "bots").iterdir())

    sets.create("bots")
    given = uploads("x/5_robot/a.png", "x/top hat/a.png", "5_robot/b.png", "x\\deep\\3_café 日本\\c.png", "x/CON/d.png")
    added = sets.add("bots", given).to_json()
    assert added["added"] == ["5_robot/a.png", "5_robot/b.png", "10_top hat/a.png", "3_café 日本/c.png"]
    assert [name for name, _ in added["refused"]] == ["d.png"]
    assert "'CON' cannot name a file" in added["refused"][0][1]
    assert folders() == ["10_top hat", "3_café 日本", "5_robot"]  # 10_bots, which stayed empty, is gone
    listing = {one["picture"]: one for one in sets.listing("bots").to_json()["pictures"]}
    assert set(listing) == {"robot/a.png", "robot/b.png", "top hat/a.png", "café 日本/c.png"}
    assert listing["top hat/a.png"]["caption_used"] == "top hat"
    assert {edit.after for edit in sets.preview("bots", {"op": "from folders"}).edits} == {
        "robot",
        "top hat",
        "café 日本",
    }

    added = sets.add("bots", uploads("7_robot/e.png", "20240131_trip/f.png", "dropped/g.png")).to_json()
    assert added["added"] == ["5_robot/e.png", "10_20240131_trip/f.png", "g.png"]
    assert added["notices"] == [
        "7_robot: its pictures are added to 5_robot, which has 5 repeats",
        "20240131_trip: 20240131 repeats: expected up to 10000; they are those of the set",
    ]
    assert "10_bots" in folders()
    opened = sets.open(str(filled(tmp_path / "mine" / "2_cat", {"a.png": None}).parent))
    added = sets.add(opened.key, uploads("x/2_dog/a.png", "x/2_cat/z.png")).to_json()
    assert added["added"] == ["2_cat/z.png"]
    assert "there is no such folder" in added["refused"][0][1]


# --- the list ---------------------------------------------------------------------------------------------------------


def test_what_is_listed_is_what_training_does(host, sets, tmp_path):
    """Sizes, buckets, crops, captions and masks agree with the dataset of a run, broken files too."""
    folder = filled(tmp_path / "set" / "4_cat", {"a.png": "cat, sitting", "b.png": None}, size=(80, 40))
    turned = picture(5, (60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    Image.new("L", (80, 40), 128).save(folder / "a.mask.png")
    (folder / "broken.png").write_bytes(b"none")
    (folder / "notes.md").write_text("mine", "utf-8")
    (folder / "b.caption").write_bytes(b"\xff\xfe")
    sets_key = sets.open(str(folder.parent)).key
    sets.set_focus(sets_key, "cat/a.png", (0.0, 0.5))
    found = sets.get(sets_key)
    dataset = find(found.config, host.model().native_size)
    listing = sets.listing(sets_key)
    assert listing.size == host.model().native_size
    listed = {one["name"]: one for one in listing.to_json()["pictures"]}
    assert {image.path.name for image in dataset.images} == {"a.png", "turned.jpg"}
    for image in dataset.images:
        one = listed[image.path.name]
        fit = image.fit
        assert (one["width"], one["height"]) == fit.original
        assert (one["bucket"], one["resized"]) == (list(fit.bucket), list(fit.resized))
        assert one["crop"][:2] == [round(fit.left / fit.resized[0], 4), round(fit.top / fit.resized[1], 4)]
        assert (one["caption_used"], one["tags"] or ["cat"]) == (image.caption, image.tags)
        assert one["repeats"] == image.repeats == 4
    assert listed["turned.jpg"]["width"] == 90
    assert listed["a.png"]["crop"][0] == 0.0
    assert listed["a.png"]["flags"] == ["small", "odd aspect"]
    assert listed["a.png"]["focus"] == [0.0, 0.5]
    assert "b.caption: not UTF-8" in listed["b.png"]["problem"]
    assert "broken.png" in listed["broken.png"]["problem"]
    assert "notes.md" in listing.contents.left_out[0]
    assert "blocktrain.json" not in " ".join((*listing.contents.left_out, *dataset.left_out))
    assert listing.to_json()["counts"]["problem"] == 2
    worth = sets.worth(sets_key, batch=3).to_json()
    assert worth["canvas_share"] == pytest.approx(128 / 255, abs=1e-3)
    assert (worth["with_repeats"], worth["masked"]) == (8, 1)
    assert sum(bucket["with_repeats"] for bucket in worth["buckets"]) == 8


def test_duplicates_are_found_in_the_background(sets, robots, host):
    Image.open(robots / "a.png").resize((90, 90)).save(robots / "again.jpg", quality=70)
    plain = Image.new("RGB", (96, 96), "white")
    plain.save(robots / "white.png")
    Image.new("RGB", (96, 96), "blue").save(robots / "blue.png")  # its hash is that of white
    until = time.monotonic() + 20
    while (listing := sets.listing("robot")).hashed < 7:
        assert time.monotonic() < until
        time.sleep(0.02)
    listed = {one["name"]: one["duplicates"] for one in listing.to_json()["pictures"]}
    assert {name: same for name, same in listed.items() if same} == {
        "a.png": ["robot/again.jpg"],
        "again.jpg": ["robot/a.png"],
    }
    kept = list((host.output_dir / "cache" / "thumbnails").rglob("*.jpg"))
    assert len(kept) == 7
    small, large = (sets.thumbnail("robot", "robot/a.png", side) for side in (256, 1024))
    assert small.content in [path.read_bytes() for path in kept]
    assert small.tag != large.tag
    picture(77).save(robots / "a.png")
    os.utime(robots / "a.png", ns=(1, 1))
    assert sets.thumbnail("robot", "robot/a.png").tag != small.tag
    with pytest.raises(ValueError, match="side 200: expected 256 or 1024"):
        sets.thumbnail("robot", "robot/a.png", 200)


def test_tokens_are_clip_s(sets):
    transformers = pytest.importorskip("transformers")
    from lib_blocktrain.hosts.standalone import _tokenizer

    assert transformers
    tokenizer = _tokenizer()
    for text in ("it's 1girl, solo_focus (red:1.2), café naïve 日本 ½ x² 🙂 — foo_bar's", "", "ÄÖÜ ß", "<|x|> a\tb"):
        assert sets._lister.tokens.count(text).count == len(tokenizer(text).input_ids) - 2
    long = "robot, " * 60
    assert sets._lister.tokens.count(long).chunks == (0, long.index("robot, ") + 7 * 37 + 5)


# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "replace", "find": "hat", "replace": "cap"}, "robot, red cap|robot, blue cap|large, robot|-"),
        ({"op": "replace", "find": "ROBOT", "replace": "x", "case": False}, "x, red hat|x, blue hat|large, x|-"),
        ({"op": "replace", "find": "robot", "replace": "", "whole_tag": True}, "red hat|blue hat|large|-"),
        ({"op": "add tag", "tag": "L", "at": "start"}, "L, robot, red hat|L, robot, blue hat|L, large, robot|L"),
        ({"op": "remove tag", "tag": "red hat"}, "robot|robot, blue hat|large, robot|-"),
        ({"op": "trigger", "word": "robot"}, "robot, red hat|robot, blue hat|robot, large|robot"),
        ({"op": "order", "tags": ["red hat"]}, "red hat, robot|robot, blue hat|large, robot|-"),
        ({"op": "sort by count"}, "robot, red hat|robot, blue hat|robot, large|-"),
        ({"op": "from folders"}, "robot, red hat|robot, blue hat|large, robot|robot"),
        ({"op": "from names", "overwrite": True}, "a|b|c|d"),
        ({"op": "clear"}, "|||-"),
    ],
    ids=lambda value: value["op"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_operations_are_previewed_done_and_taken_back(host, sets, robots, operation, expected):
    before = captions(robots)
    preview = sets.preview("robot", operation)
    assert captions(robots) == before
    change = sets.apply("robot", operation)
    assert change.edits == preview.edits
    assert change.edits
    texts = [text.read_text("utf-8") if (text := robots / f"{n}.txt").exists() else "-" for n in "abcd"]
    assert texts == expected.split("|")
    assert len(change.edits) + change.unchanged == 4
    restarted = PictureSets(host)
    assert [past["title"] for past in restarted.changes("robot")] == [change.title]
    restarted.undo("robot")
    assert captions(robots) == before
    assert restarted.changes("robot") == []
    with pytest.raises(ValueError, match="no change to take back"):
        restarted.undo("robot")


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("trigger", "expected an object"),
        ({"op": "delete"}, "operation 'delete': expected one of"),
        ({"op": ["trigger"]}, "expected one of"),
        ({"op": "replace", "find": ""}, "operation.find: nothing is given"),
        ({"op": "trigger", "word": "a\nb"}, "expected a line"),
        ({"op": "add tag", "tag": "x" * 3000}, "expected a line"),
        ({"op": "add tag", "tag": "x", "at": "middle"}, "middle"),
        ({"op": "order", "tags": "robot"}, "tags"),
        ({"op": "trigger", "word": "x", "where": 1}, "where"),
        ({"op": "trigger", "word": "a\x00b"}, "character"),
    ],
    ids=str,
)
def test_wrong_operations_are_refused(sets, robots, operation, said):
    before = captions(robots)
    with pytest.raises(ValueError, match=said):
        sets.apply("robot", operation)
    assert captions(robots) == before


def test_encoding_line_ends_and_other_lines_are_kept(sets, robots):
    odd = {"a.txt": b"\xef\xbb\xbfrobot\r\nsecond\r\n", "b.txt": b"\n  robot \nmore", "c.txt": b"robot\n"}
    for name, content in odd.items():
        (robots / name).write_bytes(content)
    (robots / "d.txt").write_bytes(b"caf\xe9")
    change = sets.apply("robot", {"op": "add tag", "tag": "hut aus Filz, größer"})
    added = "robot, hut aus Filz, größer".encode()
    assert captions(robots) == {
        "a.txt": b"\xef\xbb\xbf" + added + b"\r\nsecond\r\n",
        "b.txt": b"\n  " + added + b" \nmore",
        "c.txt": added + b"\n",
        "d.txt": b"caf\xe9",
    }
    assert change.problems == ("d.txt: not UTF-8 at byte 3: save the caption as UTF-8",)
    sets.undo("robot")
    assert {name: captions(robots)[name] for name in odd} == odd
    stamp = sets.caption("robot", "robot/a.png")["stamp"]
    sets.write_caption("robot", "robot/a.png", "one\ntwo", stamp)
    assert captions(robots)["a.txt"] == b"\xef\xbb\xbfone\r\ntwo\r\n"
    d = {one["name"]: one for one in sets.listing("robot").to_json()["pictures"]}["d.png"]
    assert d["caption"] is None
    assert "not UTF-8" in d["problem"]
    sets.write_caption("robot", "robot/d.png", "café", d["stamp"])  # asked for: as UTF-8
    assert captions(robots)["d.txt"] == "café".encode()
    sets.undo("robot")
    assert captions(robots)["d.txt"] == b"caf\xe9"


def test_what_others_have_changed_is_refused_by_name(sets, robots):
    stamps = {one["picture"]: one["stamp"] for one in sets.listing("robot").to_json()["pictures"]}
    (robots / "b.txt").write_text("by another program", "utf-8")
    (robots / "d.txt").write_text("new", "utf-8")
    before = captions(robots)
    with pytest.raises(ChangedMeanwhile, match=r"b\.txt, d\.txt: changed by another program"):
        sets.apply("robot", {"op": "clear"}, stamps=stamps)
    with pytest.raises(ChangedMeanwhile, match=r"d\.txt"):
        sets.write_caption("robot", "robot/d.png", "mine", "")
    assert captions(robots) == before
    assert sets.changes("robot") == []
    sets.apply("robot", {"op": "clear"}, ["robot/a.png", "robot/b.png"])
    (robots / "a.txt").write_text("since then", "utf-8")
    with pytest.raises(ChangedMeanwhile, match=r"a\.txt was changed"):
        sets.undo("robot")
    assert captions(robots)["b.txt"] == b""
    with pytest.raises(FileNotFoundError, match=r"no picture 'robot/x.png'"):
        sets.apply("robot", {"op": "clear"}, ["robot/x.png"])


def test_a_full_disk_leaves_everything_as_it_was(sets, robots, monkeypatch):
    before = captions(robots)
    write, count = set_changes._write, 0

    def failing(path, content):
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(set_changes, "_write", failing)
    with pytest.raises(OSError, match=r"No space left on device.*txt"):
        sets.apply("robot", {"op": "clear"})
    assert captions(robots) == before
    assert sets.changes("robot") == []


def test_a_kill_amid_a_change_can_be_taken_back(host, sets, robots, monkeypatch):
    before = captions(robots)
    write, count = set_changes._write, 0

    class Killed(BaseException):
        pass

    def failing(path, content):
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        write(path, content)

    monkeypatch.setattr(set_changes, "_write", failing)
    with pytest.raises(Killed):
        sets.apply("robot", {"op": "clear"})
    assert captions(robots) != before
    monkeypatch.setattr(set_changes, "_write", write)
    PictureSets(host).undo("robot")
    assert captions(robots) == before


def test_only_the_last_changes_are_kept(sets, robots, monkeypatch):
    monkeypatch.setattr(set_changes, "KEPT", 2)
    for word in ("one", "two", "three"):
        sets.apply("robot", {"op": "trigger", "word": word})
    assert [change["title"] for change in sets.changes("robot")] == ["“three” in front", "“two” in front"]


def test_limits_of_a_caption(sets, robots):
    with pytest.raises(ValueError, match="expected up to 16384"):
        sets.write_caption("robot", "robot/d.png", "x" * 16_385, "")
    (robots / "a.txt").write_bytes(b"x" * (caption_files.MAX_BYTES + 1))
    listed = sets.listing("robot").to_json()["pictures"][0]
    assert "a.txt: a caption of more than" in listed["problem"]


# --- masks and crops --------------------------------------------------------------------------------------------------


def test_masks_are_painted_added_to_erased_and_taken_back(host, sets, robots):
    whole, half = "[[0.5, 0.5, 0.5]]", "[[0.5, 0.0, 0.5]]"
    original = (robots / "a.png").read_bytes()
    sets.save_mask("robot", "robot/a.png", strokes=half)
    path = robots / "a.mask.png"
    with Image.open(path) as mask:
        assert (mask.size, mask.mode) == ((96, 96), "L")
        assert (mask.getpixel((5, 48)), mask.getpixel((90, 48))) == (255, 0)
    first = path.read_bytes()
    sets.save_mask("robot", "robot/a.png", strokes="[[0.5, 1.0, 0.5]]", mode="add")
    with Image.open(path) as mask:
        assert mask.getpixel((90, 48)) == mask.getpixel((5, 48)) == 255
    sets.save_mask("robot", "robot/a.png", strokes="[[0.5, 1.0, 0.5]]", mode="erase")
    with Image.open(path) as mask:
        assert (mask.getpixel((5, 48)), mask.getpixel((90, 48))) == (255, 0)
    with pytest.raises(ValueError, match="black everywhere"):
        sets.save_mask("robot", "robot/a.png", strokes="[[1, 0.5, 0.5]]", mode="erase")
    sets.undo("robot")
    sets.undo("robot")
    assert path.read_bytes() == first
    assert sets.mask("robot", "robot/a.png")
    sets.remove_mask("robot", "robot/a.png")
    assert not path.exists()
    sets.undo("robot")
    assert path.read_bytes() == first
    assert (robots / "a.png").read_bytes() == original
    data = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 128)).save(data, "PNG")
    sets.save_mask("robot", "robot/b.png", png=data.getvalue())
    with Image.open(robots / "b.mask.png") as mask:
        assert mask.getextrema() == (128, 128)
    for arguments, said in (
        ({"strokes": ""}, "nothing is painted"),
        ({"strokes": "[[3, 1, 1]]"}, "expected lists of a radius"),
        ({"png": b"GIF89a"}, "expected a picture as the mask"),
        ({}, "expected one of them"),
        ({"strokes": whole, "mode": "xor"}, "mode 'xor'"),
    ):
        with pytest.raises(ValueError, match=said):
            sets.save_mask("robot", "robot/c.png", **arguments)
    with pytest.raises(ValueError, match="no mask in a file"):
        sets.remove_mask("robot", "robot/c.png")
    listed = {one["name"]: one["mask"] for one in sets.listing("robot").to_json()["pictures"]}
    assert listed == {"a.png": "a.mask.png", "b.png": "b.mask.png", "c.png": None, "d.png": None}


def test_the_crop_is_centred_where_the_focus_is(host, sets, robots):
    """Training crops there, its cache has another key, and pictures without a focus keep the one they had."""
    left, right = Image.new("RGB", (150, 90), "red"), Image.new("RGB", (75, 90), "blue")
    left.paste(right, (75, 0))
    left.save(robots / "a.png")
    picture(3, (150, 90)).save(robots / "b.png")
    found = sets.get("robot")
    config = type(found.config)(found.config.folders, size=64, buckets=False)

    def images():
        return {image.path.name: image for image in find(config, 64).images}

    middle, fingerprint = images(), find(config, 64).fingerprint
    sets.set_focus("robot", "robot/a.png", (1.0, 0.5))
    focused = images()
    assert focused["a.png"].open().getpixel((15, 32))[2] > 200 > middle["a.png"].open().getpixel((15, 32))[2]
    assert repr(focused["a.png"].fit) != repr(middle["a.png"].fit)
    assert repr(focused["b.png"].fit) == repr(middle["b.png"].fit)
    assert repr(middle["b.png"].fit).startswith("Fit(original=(150, 90), resized=(107, 64), bucket=(64, 64))")
    assert find(config, 64).fingerprint != fingerprint
    sets.set_focus("robot", "robot/a.png", None)
    assert not (robots / "blocktrain.json").exists()
    sets.undo("robot")
    assert json.loads((robots / "blocktrain.json").read_text("utf-8"))["focus"] == {"a.png": [1.0, 0.5]}
    for wrong in ((2.0, 0.5), (float("nan"), 0.5), (True, 0.5)):
        with pytest.raises(ValueError, match="expected x and y"):
            sets.set_focus("robot", "robot/a.png", wrong)
    for content in (b"{", b"[]", b'{"format": 2}', b'{"format": 1, "focus": {"a.png": [1]}}', b"[" * 100_000, b"\xff"):
        (robots / "blocktrain.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"blocktrain\.json"):
            find(config, 64)


# --- worth ------------------------------------------------------------------------------------------------------------


def test_warnings_say_what_they_argue_for(sets, host):
    sets.create("face", 2)
    folder = host.output_dir / "datasets" / "face" / "2_face"
    many = {f"{n:02}.png": "face, green background" + (", boots" if n == 0 else "") for n in range(20)}
    filled(folder, many, size=(64, 64))
    warned = {one["kind"]: one for one in sets.worth("face", 64, batch=64).to_json()["warnings"]}
    assert "“green background” is in 20 of 20" in warned["background"]["text"]
    assert (warned["background"]["grade"], warned["background"]["preset"]) == ("B", "OUTALL")
    assert "“face” is in 100% of the captions, “boots” in 5%" in warned["imbalance"]["text"]
    assert "the character was learnt as well without OUT03-OUT05;" in warned["imbalance"]["argues_for"]
    assert "64x64" in warned["buckets"]["text"]
    assert "captions" not in warned
    sets.apply("face", {"op": "clear"})
    warned = {one["kind"]: one for one in sets.worth("face", 64).to_json()["warnings"]}
    assert "no picture has a caption" in warned["captions"]["text"]
    host.loaded = None
    listing = sets.listing("face")
    assert (listing.size, listing.size_known) == (512, False)
