"""The wheel: what is in it, and what its command does where no other package is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from lib_blocktrain import __version__
from tests.test_layers import CORE, imports, layer

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lib_blocktrain"
SOURCES = ("lib_blocktrain", "javascript", "localizations", "demo", "requirements", "tests")  # and the files of ROOT
HOST_MODULES = {"modules", "modules_forge", "backend", "ldm_patched", "networks", "network", "lora_patches", "launch"}
SETUPTOOLS = 77  # the first that reads `license = "MIT"`


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def setuptools_here() -> bool:
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the checkout: in the checkout itself a build would leave its folders."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.safetensors", "data")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=skipped)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "source")
    isolation = ["--no-build-isolation"] if setuptools_here() else []
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation, "-w", folder, ".", cwd=folder / "source")
    if built.returncode and not isolation:
        pytest.skip(f"pip cannot get setuptools {SETUPTOOLS} or later: {built.stderr.strip()[-300:]}")
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands of an environment that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    commands = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = commands / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    result = run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    assert result.returncode == 0, result.stderr
    listed = run(*pip, "list", "--format=json", cwd=folder)
    assert [entry["name"] for entry in json.loads(listed.stdout)] == ["sd-webui-blocktrain"]
    return commands


def test_what_the_wheel_holds(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    data = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.json")} | {"lib_blocktrain/py.typed"}
    page = {f"lib_blocktrain/data/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "javascript").glob("*.js")}
    page |= {f"lib_blocktrain/data/localizations/{path.name}" for path in (ROOT / "localizations").glob("*.json")}
    page |= {"lib_blocktrain/data/style.css", "lib_blocktrain/data/demo/model/tokenizer/merges.txt"}
    assert "lib_blocktrain/weights/presets.json" in data
    assert "lib_blocktrain/hosts/configs/sdxl/unet/config.json" in data
    assert names == modules | data | page


def test_what_the_wheel_says_of_itself(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert f"\nVersion: {__version__}\n" in text
    for extra in ("standalone", "test"):
        assert f"\nProvides-Extra: {extra}\n" in text


def test_what_is_imported_is_declared():
    """By the core in the base dependencies, by the rest in `standalone`; a WebUI's own modules are in no package."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    base, extra = (re.search(rf"^{key} = \[(.*?)\]", text, re.M | re.S)[1] for key in ("dependencies", "standalone"))
    for path in PACKAGE.rglob("*.py"):
        packages = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - HOST_MODULES
        for package in packages - {"lib_blocktrain"}:
            declared = base if layer(path) in CORE else base + extra
            name = {"PIL": "pillow"}.get(package, package)
            assert re.search(rf'"{name}\b', declared), f"{path} imports {package}"


def test_presets_in_a_bare_environment(installed, tmp_path):
    listed = run(installed / "blocktrain", "presets", "list", "--json", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    shipped = json.loads((PACKAGE / "weights" / "presets.json").read_text("utf-8"))
    assert len(json.loads(listed.stdout)) >= len(shipped)
    parsed = run(installed / "blocktrain", "presets", "parse", "OUTALL", "--json", cwd=tmp_path)
    assert parsed.returncode == 0, parsed.stderr
    assert json.loads(parsed.stdout)["weights"]["OUT11"] == 1


def test_inspect_in_a_bare_environment(installed, tmp_path):
    looked = run(installed / "blocktrain", "inspect", ROOT / "demo" / "loras" / "robot.safetensors", cwd=tmp_path)
    assert looked.returncode == 0, looked.stderr
    assert "OUT11" in looked.stdout


@pytest.mark.parametrize("words", [[], ["preview", "--prompt", "fox", "--out", "fox.png"]], ids=["tab", "preview"])
def test_what_is_missing_is_said(installed, tmp_path, words):
    """And no environment is made."""
    result = run(installed / "blocktrain", *words, cwd=tmp_path)
    assert result.returncode == 1
    assert "pip install 'PATH[standalone]'" in result.stderr
    assert not list(tmp_path.iterdir())
    assert not list(installed.parent.rglob(".venv"))


def test_no_demo_model_is_said(installed, tmp_path):
    """Asked in this interpreter, which has the packages, of the installed files."""
    pytest.importorskip("diffusers")
    (folder,) = installed.parent.rglob("lib_blocktrain/cli")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lib_blocktrain.cli.main import main; sys.exit(main())"
    for words in (["--no-browser"], ["tour"], ["demo", "export", "demo"]):
        result = run(sys.executable, "-c", code, folder.parent.parent, *words, cwd=tmp_path)
        assert result.returncode == 2, result.stdout + result.stderr
        assert "the demo model is not in" in result.stderr
        assert "--checkpoint FILE" in result.stderr
