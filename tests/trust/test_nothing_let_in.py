"""Nothing let in: no code out of data, no path out of a name, no package that is not the one that was locked."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import strategies as st

from lib_blocktrain.cli import environment
from lib_blocktrain.files import checked_name, is_device_name
from lib_blocktrain.runner.queue import Queue
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from lib_blocktrain.workspace.lora_index import LoraIndex
from tests.fakes import write_lora
from tests.trust import licences
from tests.trust.licences import LOCKS, requirements
from tests.trust.tally import fuzz, refused

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = sorted([*(ROOT / "lib_blocktrain").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *ROOT.glob("install.py")])

# Modules out of which data become code, or the network is reached; and who may have one all the same.
MODULES = {
    **dict.fromkeys(("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code"), ()),
    **dict.fromkeys(("requests", "aiohttp", "ftplib", "smtplib", "telnetlib"), ()),
    "ctypes": ("model/memory.py",),  # one call of Windows' own, with nothing from outside
    "httpx": ("server/connections.py",),  # in place of the client with which gradio would fetch: one that refuses
    "urllib.request": ("cli/remote.py",),  # asks the API whose address its user gave
    "subprocess": (
        "cli/environment.py",
        "cli/commands.py",
        "install.py",
        "model/memory.py",
    ),  # the last: macOS' vm_stat
    "socket": ("server/app.py", "api/access.py"),
    "webbrowser": ("server/app.py", "cli/commands.py"),
    "importlib": (
        *("cli/commands.py", "cli/environment.py", "training/kohya_toml.py", "training/optimizers.py"),
        *("training/records.py", "training/wandb_events.py", "hosts/forge/", "hosts/webui/", "install.py"),
        "networks/peft_patterns.py",
    ),
}
CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
METHODS = {
    *("os.system", "os.popen", "os.startfile", "torch.load", "torch.save", "torch.hub.load", "torch.jit.load"),
    *("numpy.load", "np.load", "pandas.read_pickle", "pty.spawn"),
}
APPENDING = ("training/runs.py",)  # the metrics, of which a broken last line is expected, and the lock


def findings(source: str, place: str) -> Iterator[str]:
    """What in a file's text could run data as code, reach the network, or write a file in place."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            allowed = MODULES.get(name, MODULES.get(name.split(".")[0]))
            if allowed is not None and not place.startswith(allowed or ("\0",)):
                yield f"imports {name}"
        if isinstance(node, ast.Call):
            yield from _call_findings(node, place)


def _call_findings(node: ast.Call, place: str) -> Iterator[str]:
    called = ast.unparse(node.func)
    runs_code = called in CALLS or called in METHODS or re.match(r"os\.(exec|spawn)", called)
    # The environment begins the same command anew, in the interpreter that it has just made.
    if runs_code and (called, place) != ("os.execve", "cli/environment.py"):
        yield f"calls {called}"
    for keyword in node.keywords:
        if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and ast.unparse(keyword.value) != "False":
            yield f"{called} with {keyword.arg}"
        if keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True":
            yield f"{called} with weights_only"
    if re.search(r"\.(write_text|write_bytes)$", called) and called.split(".")[0] != "temporary":
        yield f"writes in place: {called}"
    opened_to_write = called == "open" and len(node.args) > 1 and set("wxa+") & set(ast.unparse(node.args[1]))
    if opened_to_write and place not in (*APPENDING, "files.py"):
        yield f"writes in place: {ast.unparse(node)}"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_from_data(tally, path):
    place = path.relative_to(ROOT).as_posix().removeprefix("lib_blocktrain/")
    with tally.case("files of the package read for pickle, eval, shell"):
        assert list(findings(path.read_text("utf-8"), place)) == []


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import pickle", "imports pickle"),
        ("from urllib.request import urlopen", "imports urllib.request"),
        ("import subprocess", "imports subprocess"),
        ("x = eval('1')", "calls eval"),
        ("torch.load(path)", "calls torch.load"),
        ("os.execv(a, b)", "calls os.execv"),
        ("run(a, shell=True)", "run with shell"),
        ("f(a, weights_only=False)", "f with weights_only"),
        ("path.write_text('a')", "writes in place: path.write_text"),
        ("open(path, 'w')", "writes in place: open(path, 'w')"),
    ],
)
def test_what_is_looked_for_is_found(source, finding):
    assert list(findings(source, "training/trainer.py")) == [finding]


NASTY = (
    *("", ".", "..", "../up", "a/b", "a\\b", "/etc/passwd", "C:\\x", "C:x", "\\\\host\\share", "~", "a\0b", "a\nb"),
    *("CON", "nul", "NUL.txt", "com1", "LPT9.safetensors", "aux ", "prn.", "a.", "a ", " a", ".hidden", "a:stream"),
    *("x" * 300, "ü" * 200, "\ud800", "%2e%2e", "a*b", 'a"b', "a<b>c", "$(id)", "`id`", "-rf", "\u202egnp", "con."),
)
NAMES = (
    st.sampled_from(NASTY) | st.text(max_size=12) | st.builds(str.__add__, st.sampled_from(NASTY), st.text(max_size=3))
)


def check_name(name: str, root: Path) -> None:
    """Fail unless a name that was taken is one part of a path, here and on Windows, and can be made."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        assert len(path.parts) == 1, path.parts
        assert not path.is_absolute()
        assert not path.anchor
    assert name not in (".", "..")
    assert not is_device_name(name)
    assert not name.endswith((".", " "))
    path = root / f"{name}.safetensors"
    assert path.resolve().parent == root.resolve()
    path.touch()
    assert [found.name for found in root.iterdir()] == [path.name]
    path.unlink()


def test_names_of_runs(tally, tmp_path):
    root = tmp_path / "runs"
    root.mkdir()

    def check(name):
        with tally.case("names that become files") as case:
            taken = []
            case.fault = refused(lambda: taken.append(RunConfig(name, DatasetConfig((FolderConfig("x"),))))) is not None
            for config in taken:
                check_name(config.name, root)
                run = runs.create(config, runs.new_folder(root, config.name))
                assert run.folder.parent == root
                assert run.result.parent == run.checkpoint(1).parent.parent == run.folder
                (run.folder / "run.json").unlink()
                run.folder.rmdir()

    fuzz(NAMES, check, tally.scale.examples * 2)


def test_names_of_files(tally, tmp_path):
    """Of what is baked and published."""

    def check(name):
        with tally.case("names that become files") as case:
            taken = []
            case.fault = refused(lambda: taken.append(checked_name(name))) is not None
            for found in taken:
                check_name(found, tmp_path)

    fuzz(NAMES, check, tally.scale.examples * 2)


def test_names_of_loras(tally, tmp_path):
    """A LoRA is one that was found in the folders; no other text leads to a file."""
    write_lora(tmp_path / "loras" / "robot.safetensors")
    write_lora(tmp_path / "secret.safetensors")
    library = LoraIndex(lambda: [tmp_path / "loras"])
    library.refresh()
    assert library.network("robot").name == "robot"

    def check(name):
        with tally.case("names that become files", fault=True):
            assert name == "robot" or refused(lambda: library.network(name))

    fuzz(NAMES | st.sampled_from(["../secret", "robot/../../secret", str(tmp_path / "secret")]), check, 200)


def test_names_in_a_queue(tally, tmp_path):
    root = tmp_path / "runs"
    runs.create(RunConfig("outside", DatasetConfig((FolderConfig("x"),))), tmp_path / "outside")
    root.mkdir()

    def check(name):
        with tally.case("names that become files", fault=True):
            Queue(root)._write([name, "../outside", str(tmp_path / "outside")])
            assert Queue(root).runs() == []

    fuzz(NAMES, check, tally.scale.examples)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links(tally, tmp_path):
    """A link in a circle does not hang the list of LoRAs; one to nowhere is passed over."""
    loras = tmp_path / "loras"
    write_lora(loras / "robot.safetensors")
    (loras / "circle").symlink_to(loras, target_is_directory=True)
    (loras / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    (loras / "itself.safetensors").symlink_to(loras / "itself.safetensors")
    (loras / "folder.safetensors").mkdir()
    with tally.case("names that become files", fault=True):
        library = LoraIndex(lambda: [loras])
        library.refresh()
        assert [file.key for file in library.files()] == ["robot"]


# What is installed.

FREE = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software|ISC|MPL|Mozilla|HPND|Unlicense|CC0|Zlib|Public Domain|0BSD|OSI Approved",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\bA?GPL|Affero|GNU General|SSPL|Commons Clause|NonCommercial", re.IGNORECASE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks(tally, lock):
    """Every package is pinned to one version, whose files are known by their hashes."""
    found = requirements(lock)
    assert len(found) > 5
    for first, *more in found:
        with tally.case("packages locked"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^\s*]+", first), first
            hashes = [word for word in more if word.startswith("--hash=")]
            assert hashes, f"{first} has no hash"
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)
            assert "://" not in "".join([first, *more])
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", environment.TORCH)


def test_licences(tally):
    """No package that is installed with us is under a licence that would bind the WebUI or its users.

    The table has every package of every lock; where one is installed, it is asked itself, too.
    """
    known = licences.table()
    wanted = {package for lock in LOCKS for package in licences.locked(lock)}
    assert known.keys() == wanted, "requirements/LICENCES.md: run tests/trust/licences.py"
    for (name, version), licence in known.items():
        with tally.case("licences"):
            assert FREE.search(licence), f"{name} {version}: {licence!r} is not known here"
            for said in (licence, licences.said_of(name, "")):
                assert not COPYLEFT.search(said.replace("LGPL", "")), f"{name} {version}: {said}"
    assert "BSD" in licences.said_of("torch", "")
