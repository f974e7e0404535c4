"""The documents are correct: each command runs or at least parses, links resolve, names exist.

A block of ```bash in a page is run, line by line, in a folder of its own beside the demo model. Before it may stand
`<!-- in the tests: WHY; with WORDS -->`, and each of its commands is run with these words added, or
`<!-- in the tests: WHY -->`, and they are parsed only. A block of ```text right behind it is what they print.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from lib_blocktrain.cli.main import build_parser
from lib_blocktrain.cli.main import main as blocktrain
from lib_blocktrain.hosts import standalone_folders
from lib_blocktrain.training import kohya_toml
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, NetworkConfig, RunConfig, ScheduleConfig
from lib_blocktrain.training.config_json import key_of, read
from lib_blocktrain.training.kohya_toml import read_toml
from lib_blocktrain.weights import kohya_arguments
from lib_blocktrain.weights.prompt_tags import read_tag, resolve
from lib_blocktrain.weights.tag_steps import TagError
from lib_blocktrain.weights.text_spans import PresetStringError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lib_blocktrain"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md"]
OURS = ["python", "-m", "lib_blocktrain"]
TORCHRUN = "torchrun"
UNCHECKED = {"git", "cd", "apt-get"}  # of the shell; these are never run here
OTHERS_OPTIONS = {  # of WebUIs, pip and uv, and of a sample prompt in sd-scripts' notation
    "--w", "--h", "--d", "--s", "--l", "--n", "--ss",
    "--api", "--api-auth", "--gradio-auth", "--listen", "--share", "--ngrok", "--nowebui", "--server-name", "--lowvram",
    "--medvram", "--medvram-sdxl", "--cors-allow-origins", "--universal", "--python-version", "--generate-hashes", "-r",
}  # fmt: skip

_MARK = re.compile(r"<!-- in the tests: (?P<why>.+?)(?:; with (?P<words>.+?))? -->")
_LINK = re.compile(r"""!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)\"""")
_SPAN = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:lib_blocktrain|demo|benchmarks|docs|tests|scripts|javascript|requirements)/[\w./*-]+")


@dataclass(frozen=True)
class Fence:
    """A block of a page: its language, its text, where it begins, and the lines before it up to the last blank one."""

    language: str
    text: str
    line: int
    before: str


@dataclass(frozen=True)
class Command:
    """One command of a page; `added` are the tests' own words, None where it is parsed only."""

    words: tuple[str, ...]
    where: str
    added: tuple[str, ...] | None = ()
    printed: str = ""


def fences(page: Path) -> list[Fence]:
    found, opened, before = [], None, ""
    for number, line in enumerate(page.read_text("utf-8").split("\n"), start=1):
        if opened is None and line.startswith("```"):
            opened = (line[3:].strip(), number, [])
        elif opened is not None and line == "```":
            found.append(Fence(opened[0], "\n".join(opened[2]), opened[1], before))
            opened, before = None, "```"
        elif opened is not None:
            opened[2].append(line)
        else:
            before = before + line + "\n" if line.strip() else before if before == "```" else ""
    assert opened is None, f"{page}: a block that begins in line {opened and opened[1]} has no end"
    return found


def commands(page: Path) -> list[Command]:
    found: list[Command] = []
    for fence in fences(page):
        if fence.language == "text" and fence.before.startswith("```") and fence.before.strip() == "```" and found:
            found[-1] = Command(found[-1].words, found[-1].where, found[-1].added, fence.text)
        if fence.language != "bash":
            continue
        mark = _MARK.search(fence.before)
        assert bool(mark) == ("in the tests" in fence.before), f"{page}:{fence.line}: {fence.before}"
        added = () if mark is None else None if mark["words"] is None else tuple(shlex.split(mark["words"]))
        for line in fence.text.replace("\\\n", " ").split("\n"):
            for part in re.split(r"\s&&\s", line):
                words = tuple(shlex.split(part, comments=True))
                if words:
                    found.append(Command(words, f"{page.name}:{fence.line}", added))
    return found


def named(page: Path) -> list[str]:
    """What stands in `code` in a page, but for blocks and what tables say of other programs in their first column."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    if page.name == "coming-from.md":
        text = re.sub(r"^\|(?:\\\||[^|\n])*\|", "|", text, flags=re.M)
    return [span.replace("\\|", "|") for span in _SPAN.findall(text)]


def links(page: Path) -> list[str]:
    """Where a page's links lead to and its pictures lie, those in `<picture>` too."""
    return [target or source for target, source in _LINK.findall(page.read_text("utf-8"))]


def table_rows(page: Path) -> list[list[str]]:
    """The cells of each row of a page's tables."""
    lines = page.read_text("utf-8").split("\n")
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]


def options_of(parser) -> set[str]:
    """The options of a parser and of its commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        for command in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            found |= options_of(command)
    return found


@cache
def options_of_script(script: Path) -> frozenset[str]:
    """The options that a script of ours adds to its parser, or a module beside it."""
    found = {"--help"}
    for path in {script, *script.parent.glob("*.py")} if script.parent.name == "benchmarks" else {script}:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")}
    return frozenset(found)


def check_words(words: tuple[str, ...], where: str) -> None:
    """Parse a command by the program's own parser; what is unknown here fails."""
    if words[:3] == tuple(OURS):
        if words[3:4] == ("test",):
            assert all((ROOT / word).exists() for word in words[4:]), where
            return
        try:
            build_parser().parse_args(words[3:])
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(f"{where}: {' '.join(words)} is not understood") from ended
    elif words[0] == TORCHRUN:
        run = pytest.importorskip("torch.distributed.run")
        parsed = run.get_args_parser().parse_args(words[1:])
        assert parsed.module, where
        check_words(("python", "-m", parsed.training_script, *parsed.training_script_args), where)
    elif words[0] == "python" and words[1].endswith(".py"):
        script = ROOT / words[1]
        assert script.exists(), where
        given = {word.partition("=")[0] for word in words[2:] if re.match(r"--[a-z]", word)}
        assert given <= options_of_script(script), f"{where}: {given - options_of_script(script)} of {words[1]}"
    else:
        assert words[0] in UNCHECKED, f"{where}: there is no check for {' '.join(words)}"


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder as a checkout is to a command: the demo in it, and `outputs` of its own."""
    pytest.importorskip("lib_blocktrain.hosts.standalone")
    (tmp_path / "demo").symlink_to(ROOT / "demo", target_is_directory=True)
    monkeypatch.setattr(standalone_folders, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_commands_run(page, workplace, capsys):
    for command in commands(page):
        check_words(command.words, command.where)
        if command.added is None:
            continue
        assert command.words[:3] == tuple(OURS), f"{command.where}: only our own commands are run"
        status = blocktrain([*command.words[3:], *command.added])
        said = capsys.readouterr()
        assert status == 0, f"{command.where}: {' '.join(command.words)}: {said.err}"
        for line in filter(None, map(str.strip, command.printed.split("\n"))):
            assert line in said.out + said.err, f"{command.where}: {line!r} is not in\n{said.out}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_other_commands_parse(page):
    """Those between other words, those of scripts, and api.md's, which `tests/api/test_api_doc.py` runs."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    indented = re.findall(r"^ {4,}((?:python|torchrun|curl|git) .*)$", text, flags=re.M)
    ours = [line for line in indented if not re.match(r"python \S+\.py", line)]
    assert page.name == "api.md" or not ours, f"{page.name}: put these into ```bash: {ours}"
    for line in [*indented, *named(page)]:
        if re.match(r"(python|torchrun) ", line):
            check_words(tuple(shlex.split(line, comments=True)), page.name)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_options_exist(page):
    spans = named(page)
    scripts = {ROOT / w for span in spans for w in span.split() if w.endswith(".py") and (ROOT / w).is_file()}
    scripts.add(ROOT / "tests" / "trust" / "run.py")
    known = options_of(build_parser()).union(OTHERS_OPTIONS, *map(options_of_script, scripts))
    known |= options_of(pytest.importorskip("torch.distributed.run").get_args_parser())
    known |= (
        set().union(*(_SPAN.findall(row[0]) for row in table_rows(page))) if page.name == "coming-from.md" else set()
    )
    for span in spans:
        for option in re.findall(r"(?:^|\s)(--[a-z][\w-]*)", span):
            assert option in known, f"{page.name}: `{span}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(there), f"{page.name}: {target}"


def test_pictures_are_used():
    shown = {Path(target).name for page in PAGES for target in links(page)}
    unused = {path.name for path in (ROOT / "docs" / "images").iterdir()} - shown
    assert not unused, f"in docs/images, and in no page: {sorted(unused)}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_files_and_tests_exist(page):
    tests = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    for span in named(page):
        if _FILE.fullmatch(span):
            assert list(ROOT.glob(span.rstrip("/"))), f"{page.name}: `{span}`"
        elif found := re.fullmatch(r"(test_\w+)(\.py|\*)?", span):
            known = span in tests if found[2] == ".py" else any(f"def {found[1]}" in text for text in tests.values())
            assert known or f"{span}.py" in tests, f"{page.name}: `{span}`"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_configurations_and_tags_are_read(page, tmp_path):
    for fence in fences(page):
        if fence.language == "json":
            data = json.loads(fence.text)
            if "dataset" in data:
                read(RunConfig, data)
        if fence.language == "toml":
            (tmp_path / "dataset.toml").write_text(fence.text, "utf-8")
            assert read_toml(DatasetConfig(toml=str(tmp_path / "dataset.toml")))[1] == [], page.name
    sections = {name: kind for name, kind in get_type_hints(RunConfig).items() if is_dataclass(kind)}
    for span in named(page):
        section, _, name = span.partition(".")
        if section in sections and re.fullmatch(r"[a-z_]+", name):
            known = {spelling for field in fields(sections[section]) for spelling in (field.name, key_of(field))}
            assert name in known, f"{page.name}: `{span}`"
        if re.fullmatch(r"<lora:[^>]+>", span) and "..." not in span:
            try:
                resolve(read_tag(span[1:-1].split(":")[1:]), "sd1", seed=1, recommended=lambda name: "OUT=1")
            except (TagError, PresetStringError) as error:
                raise AssertionError(f"{page.name}: `{span}`: {error}") from error


@pytest.mark.parametrize("name", ["preview", "analysis", "training", "sharing", "choosing", "README"])
def test_labels_are_the_tabs(name):
    """What is set in italics with a capital is what stands on a button, a field or a tab."""
    page = next(page for page in GUIDES if page.stem == name).read_text("utf-8")
    if name == "README":
        page = page[page.index("## Five minutes") : page.index("## Three tasks")]
    said = set()
    for path in [*(PACKAGE / "ui").glob("*.py"), PACKAGE / "server" / "webui.py", *(ROOT / "javascript").glob("*.js")]:
        said |= set(re.findall(r"""[A-Z][^"'<>]*""", path.read_text("utf-8")))
    said |= set(json.loads((ROOT / "docs" / "localization.json").read_text("utf-8")))  # those put together, too
    known = {known.strip().rstrip(":") for known in said}
    for label in re.findall(r"(?<!\*)\*([A-Z][^*\n]*)\*(?!\*)", page):
        assert label in known | {"2-robot-out"}, f"{name}: *{label}*"


def test_second_spellings_are_named():
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    seconds = [
        field for kind in (NetworkConfig, ScheduleConfig) for field in fields(kind) if key_of(field) != field.name
    ]
    assert len(seconds) >= 2
    for field in seconds:
        assert f".{field.name}`" in text
        assert f".{key_of(field)}`" in text


def test_every_name_of_sd_scripts_has_its_line():
    """What is read of dataset files and block arguments is in the tables, and what stands beside it is a field."""
    rows = table_rows(ROOT / "docs" / "coming-from.md")
    theirs = {name.lstrip("-") for row in rows for name in _SPAN.findall(row[0])}
    assert theirs >= {*kohya_toml._READ, *kohya_arguments.BLOCK_ARGUMENTS}
    known = {key_of(field) for kind in (RunConfig, FolderConfig) for field in fields(kind)}
    known |= set(kohya_arguments._WHOLES.values())
    known |= {
        value
        for kind in (NetworkConfig, ScheduleConfig)
        for hint in get_type_hints(kind).values()
        for value in get_args(hint)
    }
    ours = {name for row in rows for name in _SPAN.findall(row[1]) if re.fullmatch("[a-z]+(_[a-z]+)*", name)}
    assert ours <= known, ours - known


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", re.sub(r"[`*]", "", head).lower()).replace(" ", "-") for head in heads}


def test_the_advisories_are_of_the_pinned_versions():
    """SECURITY.md's tables name each package as the lock file in the table's heading pins it."""
    lock, rows = "", 0
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines():
        if line.startswith("### "):
            named = re.search(r"`(requirements/[^`]+)`", line)
            lock = (ROOT / named[1]).read_text("utf-8") if named else ""
        if row := re.match(r"\| CVE[^|]*\| (\S+) (\S+) \|", line):
            rows += 1
            assert re.search(rf"^{row[1]}=={re.escape(row[2])} ", lock, re.MULTILINE), line
        if row := re.match(r"\| CVE[^|]*\| (\S+) \| (\S+) \| (\S+)(?: or later)? \|", line):
            rows += 1
            locks = "".join(path.read_text("utf-8") for path in (ROOT / "requirements").glob("*.txt"))
            found = re.findall(rf"^{row[1]}==(\S+) ", locks, re.MULTILINE | re.IGNORECASE)
            fixed, least, *pinned = ([int(part) for part in text.split(".")] for text in (row[2], row[3], *found))
            assert fixed <= least == min(pinned), line
    assert rows > 15
