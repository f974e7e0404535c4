"""benchmarks/all.py: every benchmark is in it and has its place in the document; it goes on where it was stopped."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks import all as every

ROOT = Path(__file__).resolve().parent.parent.parent
BY_HAND = {"all", "on_gpu", "evidence"}  # the GPU's, and that of docs/evidence.md


def test_every_benchmark_has_its_place():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8")}
    named = {Path(one.words[0]).stem for one in every.BENCHMARKS}
    assert named == scripts - BY_HAND
    page = every.PAGE.read_text("utf-8")
    places = re.findall(r"<!-- ([\w-]+): written by benchmarks/all.py -->.*?<!-- end of \1 -->", page, re.DOTALL)
    assert sorted(places) == sorted(one.name for one in every.BENCHMARKS)
    for one in every.BENCHMARKS:
        source = (ROOT / one.words[0]).read_text("utf-8")
        literals = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
        assert {word for word in one.words if word.startswith("--")} <= literals, one.command


def test_output_becomes_tables_text_and_sentences():
    result = every.Result(
        "b.py", "x", "2026-11-27", 75.0, "a machine\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\nx   1\ny   2\n"
    )
    assert every.markdown(result).split("\n\n")[1:] == [
        "a machine",
        "| a | b |\n|---|--:|\n| 1 | 2 |",
        "```text\nx   1\ny   2\n```",
    ]
    assert "in 1 min 15 s:" in every.markdown(result)
    quiet = dataclasses.replace(result, others=0.031)
    assert "in 1 min 15 s, while other processes kept 0.03 cores busy:" in every.markdown(quiet)


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="only Linux tells")
def test_what_other_processes_use_is_told(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "busy.py").write_text(
        "import time\nend = time.process_time() + 2.0\nwhile time.process_time() < end: pass\n"
    )
    (tmp_path / "idle.py").write_text(
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(tmp_path / 'busy.py')!r}])\n"
        "if len(sys.argv) > 1: child.wait()\nelse: time.sleep(3), os._exit(0)\n"
    )
    # A child that was waited for is the benchmark's own; one that was not counts as another's.
    one, other = (
        every.measured(every.Benchmark("x", f"{tmp_path / 'idle.py'} {word}"), work, 1) for word in ("wait", "")
    )
    assert one.others is not None
    assert other.others is not None
    assert one.others >= 0.0
    assert other.others * other.seconds > 1.5


def test_a_change_is_measured_again_where_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(every, "ROOT", tmp_path)
    for name, text in {
        "lib_blocktrain/a.py": "",
        "benchmarks/setting.py": "",
        "benchmarks/one.py": "from benchmarks import setting",
        "benchmarks/two.py": "import benchmarks.one",
        "benchmarks/three.py": "import torch",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    made = [every.Benchmark(name, f"benchmarks/{name}.py") for name in ("one", "two", "three")]

    def changed(name: str) -> list[str]:
        before = [every.digest_of(one) for one in made]
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        return [one.name for one, digest in zip(made, before, strict=True) if every.digest_of(one) != digest]

    assert changed("lib_blocktrain/a.py") == ["one", "two", "three"]
    assert changed("benchmarks/setting.py") == ["one", "two"]
    assert changed("benchmarks/two.py") == ["two"]


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    page, work = tmp_path / "page.md", tmp_path / "work"
    names = ("first", "broken", "second", "elsewhere")
    page.write_text(
        "".join(f"## {n}\n\n{every.BEGIN.format(name=n)}\nold\n{every.END.format(name=n)}\n" for n in names)
    )
    script = tmp_path / "script.py"
    script.write_text("import sys; print('| got |\\n|---|\\n|', sys.argv[1], '|'); sys.exit(sys.argv[1] == 'broken')\n")
    made = [every.Benchmark(n, f"{script} {n}", "NOT_SET" if n == "elsewhere" else "") for n in names]
    monkeypatch.setattr(every, "BENCHMARKS", tuple(made))
    arguments = argparse.Namespace(only=["first"], work=work, page=page, threads=1, again=False)
    assert every.run(arguments) == 0
    assert page.read_text().count("old") == 3
    arguments.only = None
    assert every.run(arguments) == 1
    said = capsys.readouterr().out
    assert said.count(f"first: {script}") == 1
    assert "failed: broken" in said
    assert "elsewhere: left out" in said
    text = page.read_text()
    assert "| first |" in text
    assert "| second |" in text
    assert text.count("old") == 2
    with pytest.raises(ValueError, match="no place for third"):
        every.put(text, "third", "x")
