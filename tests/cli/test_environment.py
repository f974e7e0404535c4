"""Setting up the environment, with pip and exec replaced by recorders of their arguments."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lib_blocktrain.cli import environment
from lib_blocktrain.cli.environment import EnvironmentFailure, ensure


class Ran(Exception):
    """Stands for exec, which does not return."""


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An interpreter that lacks everything, an empty folder for the environment, and a log of pip calls."""
    calls = []
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "missing", lambda purpose: ["torch", "diffusers"])
    monkeypatch.setattr(environment.venv, "create", lambda folder, with_pip: make(folder))
    monkeypatch.setattr(environment, "_venv_has_torch", lambda: False)
    monkeypatch.setattr(environment, "_pip", lambda *a, check=True: calls.append(a) is None)
    monkeypatch.delenv("BLOCKTRAIN_IN_VENV", raising=False)

    def exec_(path, command, env):
        raise Ran(command)

    monkeypatch.setattr(environment.os, "execve", exec_)
    return calls


def make(folder: Path) -> None:
    python = environment._python(folder)
    python.parent.mkdir(parents=True)
    python.write_text("")


def test_nothing_to_do_where_everything_is_there(monkeypatch):
    monkeypatch.setattr(environment, "missing", lambda purpose: [])
    monkeypatch.setattr(environment.os, "execve", lambda *a: pytest.fail("ran again"))
    ensure("run", ["preview"])


def test_first_use_says_what_it_does_and_runs_again(bare, caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(Ran) as ran:
        ensure("run", ["preview", "--seed", "1"], "cpu")
    assert ran.value.args[0][1:] == ["-m", "lib_blocktrain", "preview", "--seed", "1"]
    assert "about 1.2 GB" in caplog.text
    assert str(environment.VENV) in caplog.text
    assert bare[0] == ("install", environment.TORCH + "+cpu")
    assert "--require-hashes" in bare[1]


def test_second_use_installs_nothing(bare):
    for _ in range(2):
        with pytest.raises(Ran):
            ensure("run", [], "cpu")
    assert len(bare) == 2


def test_tests_come_on_top(bare):
    with pytest.raises(Ran):
        ensure("run", [], "cpu")
    with pytest.raises(Ran):
        ensure("test", [], "cpu")
    assert any(str(a[-1]).endswith("test.txt") for a in bare)


def test_a_changed_lock_installs_again(bare, monkeypatch):
    with pytest.raises(Ran):
        ensure("run", [], "cpu")
    monkeypatch.setattr(environment, "TORCH", "torch==99.0")
    with pytest.raises(Ran):
        ensure("run", [], "cpu")
    assert len(bare) == 4


def test_no_cpu_build_on_the_index(bare, monkeypatch, caplog):
    """The plain build is taken, and where that is the large one it is said."""
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(environment, "_pip", lambda *a, check=True: bare.append(a) or not a[-1].endswith("+cpu"))
    with pytest.raises(Ran):
        ensure("run", [], "cpu")
    assert [a[-1] for a in bare[:2]] == [environment.TORCH + "+cpu", environment.TORCH]
    assert "--torch-index" in caplog.text


def test_a_broken_environment_does_not_run_for_ever(bare, monkeypatch):
    monkeypatch.setenv("BLOCKTRAIN_IN_VENV", "1")
    with pytest.raises(EnvironmentFailure, match="delete it"):
        ensure("run", [], "cpu")


@pytest.mark.parametrize(
    ("purpose", "words"),
    [
        ("core", "lacks torch, diffusers: pip install 'PATH'"),
        ("run", "lacks torch, diffusers: pip install 'PATH[standalone]'"),
        ("test", "the tests are in the repository"),
    ],
)
def test_an_installed_package_makes_no_environment(bare, monkeypatch, purpose, words):
    """From a wheel the folder beside the package is site-packages: say what to install instead."""
    monkeypatch.setattr(environment, "INSTALLED", True)
    with pytest.raises(EnvironmentFailure) as failure:
        ensure(purpose, [], "cpu")
    assert words in str(failure.value)
    assert not bare
    assert not environment.VENV.exists()


def test_locks_have_hashes_and_no_torch():
    for name in ("run.txt", "test.txt"):
        text = (environment.ROOT / "requirements" / name).read_text()
        names = [line.split("==")[0] for line in text.splitlines() if "==" in line]
        assert names
        assert not {n for n in names if n == "torch" or n.startswith(("nvidia", "triton"))}
        assert text.count("--hash=sha256:") >= len(names)


def test_needed_distributions_are_in_the_locks():
    locked = ""
    for name in ("run.txt", "test.txt"):
        locked += (environment.ROOT / "requirements" / name).read_text()
    for name in (*environment.NEEDED["run"], *environment.NEEDED["test"]):
        assert name == "torch" or f"\n{name}==" in "\n" + locked, name
