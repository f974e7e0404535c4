"""Nothing lost: killed at any moment, a full disk, a folder that can only be read, files that go away or change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from lib_blocktrain.hosts.host import SampleRequest
from lib_blocktrain.networks import files
from lib_blocktrain.networks.adapters import module_from_tensors
from lib_blocktrain.networks.files import Network, read_network, write_network
from lib_blocktrain.networks.header import read_header
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.training import runs, state_file
from lib_blocktrain.training.config import dumps
from lib_blocktrain.training.result import publish
from lib_blocktrain.weights.preset_files import PresetFile
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.workspace.images import save_png
from tests.trust.tally import refused
from tests.trust.whole import Whole

HERE = Path(__file__).resolve().parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="SIGKILL, mounts and permissions are POSIX's")
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@POSIX
def test_killed_while_training(tally, random_model, config, tmp_path):
    """SIGKILL at random moments, many of them in the middle of saving: each run ends with the unbroken one's bytes."""
    (tmp_path / "run.json").write_text(dumps(replace(config, steps=6, save_every=1, keep=3)), "utf-8")
    command = [sys.executable, str(HERE / "killed.py"), "--model", str(random_model), "--out", str(tmp_path / "out")]
    command += ["--run", str(tmp_path / "run.json"), "--kills", str(tally.scale.kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tally.case("training killed", fault=True):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["kills"] == tally.scale.kills
    tally.rows["training killed"].cases += answer["kills"] - 1
    tally.rows["training killed"].survived += answer["kills"] - 1
    tally.measured.append(
        f"training killed {answer['kills']} times, {answer['in_saving']} of them while it wrote a file"
    )
    if tally.scale.kills >= 30:
        assert answer["in_saving"] >= 3, answer


# Every file that is written, killed and starved while it is.


def network(number: float) -> Network:
    tensors = {"lora_down.weight": torch.full((2, 8), number), "lora_up.weight": torch.ones(8, 2)}
    return Network("one", "sd1", {KEY: module_from_tensors(KEY, tensors)})


@dataclass(frozen=True)
class Writer:
    """Writes a file's first and second version."""

    name: str
    write: Callable[[Path, int], object]


def put_preset(path: Path, number: int) -> None:
    PresetFile(path).put(Preset("MINE", ("sd1",), f"OUT={number} | arch=sd1"))


def put_in_queue(path: Path, number: int) -> None:
    queue = Queue(path.parent)
    run = runs.Run(path.parent / f"run-{number}", None)
    queue.add(run)


def publish_result(path: Path, number: int) -> None:
    result = path.parent.parent / "results" / path.name
    result.parent.mkdir(exist_ok=True)
    result.write_bytes(bytes([number]) * 100)
    publish(result, path.parent, replaces=path.name)


def picture(path: Path, number: int) -> None:
    save_png(Image.new("RGB", (64, 64), (number, 0, 0)), path, SampleRequest("a fox", seed=number), "model")


WRITERS = (
    Writer("robot.safetensors", lambda path, number: write_network(path, network(number), overwrite=True)),
    Writer("state.safetensors", lambda path, number: state_file.save(path, {"step": number, "x": torch.ones(number)})),
    Writer("presets.txt", put_preset),
    Writer("robot.png", picture),
    Writer("queue.json", put_in_queue),
    Writer("published.safetensors", publish_result),
)


def contents(path: Path) -> object:
    """The file's bytes; of a safetensors file, whose metadata come in any order, what they say."""
    if path.name not in ("robot.safetensors", "state.safetensors"):
        return path.read_bytes()
    header = read_header(path)
    return header.metadata, header.shapes, path.read_bytes()[header.start :]


@contextmanager
def killed_at(place: str) -> Iterator[None]:
    """End this process at once where a file is flushed, or becomes another."""
    call = getattr(os, place)

    def kill(*arguments):
        if place == "replace":
            call(*arguments)  # it is there now: the end comes just behind it
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, place, kill)
    try:
        yield
    finally:
        setattr(os, place, call)


@POSIX
@pytest.mark.parametrize("place", ["fsync", "replace"])
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_killed_while_writing(tally, tmp_path, writer, place):
    """The old file or the new one, whole; and the next one who writes it is not disturbed by what was left."""
    path, other = tmp_path / "a" / writer.name, tmp_path / "b" / writer.name
    for folder in (path.parent, other.parent):
        folder.mkdir()
        writer.write(folder / writer.name, 1)
    before = contents(path)
    writer.write(other, 2)
    after = contents(other)
    with tally.case("killed while writing a file", fault=True):
        child = os.fork()
        if child == 0:
            with killed_at(place):
                writer.write(path, 2)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        # Of what is published the small file with the text comes first: `before` for the network file then.
        assert contents(path) == (before if place == "fsync" or writer.name.startswith("published") else after)
        writer.write(path, 2)
        assert contents(path) == after


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount something at a folder, where this may be done."""
    if os.geteuid():
        pytest.skip("a disk of its own wants root")
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let a folder only be read: by its permissions, or for root, whom they do not bind, by a mount."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=16m", "tmpfs") as folder:
        yield folder


def fill(folder: Path) -> Path:
    """Fill the disk to its last byte."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@POSIX
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_writing_to_a_full_disk(tally, disk, writer):
    path = disk / writer.name
    writer.write(path, 1)
    before, names = path.read_bytes(), {file.name for file in disk.iterdir()}
    with tally.case("full disk", fault=True):
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space left") as caught:
            writer.write(path, 2)
        assert writer.name.startswith("published") or caught.value.filename == str(path)
        assert path.read_bytes() == before
        assert {file.name for file in disk.iterdir()} == {*names, ballast.name}


@pytest.fixture
def untouched(model) -> Iterator[None]:
    whole = Whole({"unet": model.unet, "vae": model.pipeline.vae, **model.text_encoders})
    yield
    whole.check()


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def after_step(step: int, do: Callable[[], object]) -> Callable[[dict], None]:
    """A report that does something once, after this step."""
    done = []

    def report(row: dict) -> None:
        if row.get("step") == step and "loss" in row and not done:
            done.append(do())

    return report


@POSIX
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_takes_no_more(tally, train, config, tmp_path, trouble, request):
    """Training ends with the file's name and the reason; the state of the step before is whole, and goes on."""
    config = replace(config, steps=4, save_every=1)
    whole = train(config, "whole")
    folder = tmp_path / "run"
    if trouble == "full":
        folder = request.getfixturevalue("disk") / "run"
    name, said = str(folder.relative_to(tmp_path)), {"full": "No space left", "read-only": "Read-only|Permission"}
    with tally.case("full disk" if trouble == "full" else "folder that can only be read", fault=True):
        with ExitStack() as stack:
            place = folder.parent if trouble == "full" else folder
            begin = {"full": lambda: fill(place), "read-only": lambda: stack.enter_context(read_only(place))}[trouble]
            with pytest.raises(OSError, match=said[trouble]) as caught:
                train(config, name, report=after_step(2, begin))
            assert str(folder) in str(caught.value)
            run = runs.open_run(folder)
            assert run.load_state()["step"] == 1
            assert run.status == "broken off"
            del caught
        (folder.parent / "ballast").unlink(missing_ok=True)
        resumed = train(config, name)
        assert same(resumed.outcome.result, whole.outcome.result)
        losses = [[row["loss"] for row in t.run.metrics() if "loss" in row] for t in (whole, resumed)]
        assert losses[0] == losses[1]


@POSIX
def test_beginning_where_nothing_can_be_written(tally, config, tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    with tally.case("folder that can only be read", fault=True), read_only(place):
        assert refused(lambda: runs.create(config, place / "run"), str(place))
        assert refused(lambda: put_preset(place / "presets.txt", 1), str(place / "presets.txt"))


@pytest.fixture
def four_pictures(pictures, config, tmp_path):
    """The pictures in a folder of their own, and a run on them."""
    folder = tmp_path / "pictures" / "2_thing"
    folder.mkdir(parents=True)
    for path in (pictures / "2_thing").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    dataset = replace(config.dataset, folders=(replace(config.dataset.folders[0], path=str(folder)),))
    return folder, replace(config, dataset=dataset, steps=4, save_every=1)


@pytest.mark.usefixtures("untouched")
def test_a_picture_deleted_before_it_was_read(tally, train, four_pictures):
    folder, config = four_pictures

    def report(row: dict) -> None:
        if row.get("encoded") == 1:
            (folder / "3.png").unlink()

    with tally.case("deleted picture", fault=True):
        assert refused(lambda: train(config, report=report), str(folder / "3.png"))


@pytest.mark.usefixtures("untouched")
def test_a_picture_deleted_while_training(tally, train, four_pictures):
    """What is encoded stays: the run ends as it would have; a resumed one says that its pictures are others."""
    folder, config = four_pictures
    whole, notices = train(config, "whole"), []
    with tally.case("deleted picture", fault=True):
        report = after_step(2, (folder / "3.png").unlink)
        assert same(train(config, "run", report=report).outcome.result, whole.outcome.result)
        train(replace(config, steps=5), "run", report=lambda row: notices.append(row.get("notice", "")))
        assert any("not those that this run began with" in notice for notice in notices)


@pytest.mark.usefixtures("untouched")
def test_a_picture_deleted_that_each_step_reads(tally, train, four_pictures):
    """With changed colours a picture is read in each step: its name ends the run, which goes on once it is back."""
    folder, config = four_pictures
    config = replace(config, dataset=replace(config.dataset, color=True))
    whole, away = train(config, "whole"), folder.parent / "away.png"
    with tally.case("deleted picture", fault=True):
        report = after_step(2, lambda: (folder / "3.png").rename(away))
        assert refused(lambda: train(config, "run", report=report), str(folder / "3.png"))
        away.rename(folder / "3.png")
        assert same(train(config, "run").outcome.result, whole.outcome.result)


def lora(path: Path, number: float) -> Path:
    save_file({f"{KEY}.lora_down.weight": torch.full((2, 8), number), f"{KEY}.lora_up.weight": torch.ones(8, 2)}, path)
    return path


@pytest.mark.parametrize("how", ["overwritten", "emptied", "replaced", "deleted"])
def test_a_lora_file_that_changes_in_use(tally, tmp_path, how):
    """What was read is ours: no map of the file, whose end would be the process's (SIGBUS)."""
    path, other = lora(tmp_path / "robot.safetensors", 1.0), lora(tmp_path / "other.safetensors", 2.0)
    with tally.case("LoRA file changed in use", fault=True):
        read = read_network(path)
        maps = Path("/proc/self/maps")
        assert not maps.exists() or str(path) not in maps.read_text("utf-8")
        change = {
            "overwritten": lambda: path.write_bytes(other.read_bytes()[:100]),
            "emptied": lambda: os.truncate(path, 0),
            "replaced": lambda: os.replace(other, path),
            "deleted": path.unlink,
        }
        change[how]()
        assert read.modules[KEY].down.eq(1).all()
        if how == "replaced":
            assert read_network(path).modules[KEY].down.eq(2).all()
        else:
            assert refused(lambda: read_network(path), str(path))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", None], ids=["empty", "other", "gone"])
def test_a_lora_file_that_changes_while_it_is_read(tally, tmp_path, monkeypatch, content):
    """Replaced between its header and its tensors."""
    path, read = lora(tmp_path / "robot.safetensors", 1.0), files.read_header

    def change(given):
        header = read(given)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        return header

    monkeypatch.setattr(files, "read_header", change)
    with tally.case("LoRA file changed in use", fault=True):
        assert refused(lambda: read_network(path), str(path))
