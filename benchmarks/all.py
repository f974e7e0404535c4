"""All benchmarks by one command, and the tables of ``docs/benchmarks.md`` from what they print.

    python benchmarks/all.py [--only NAME ...] [--work DIR] [--again] [--threads 1]
    python benchmarks/all.py --list

Run it on a quiet machine: it takes hours. Each benchmark is a process of its own. What it prints is kept in DIR, and
put into the document at once, so that the command may be stopped and started again: what was measured with the same
package, benchmark and command is not measured twice, unless `--again` says so. A benchmark that fails leaves its part
of the document as it is; the others go on, and the command ends with 1. What only a GPU can tell is in
`benchmarks/on_gpu.py`.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_blocktrain import __version__
from lib_blocktrain.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
WORK, MODELS = "{work}", "{models}"  # in a command: the folder of what it measured with this package; of its models
BEGIN, END = "<!-- {name}: written by benchmarks/all.py -->", "<!-- end of {name} -->"


@dataclass(frozen=True)
class Benchmark:
    """A command, whose output is a part of the document. `needs` is a variable of the environment that it wants."""

    name: str
    command: str
    needs: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


TRAINING = "benchmarks/training.py --threads 1"
BENCHMARKS = tuple(
    Benchmark(*entry)
    for entry in (
        ("start", "benchmarks/start.py --rounds 5"),
        ("page", "benchmarks/page.py"),
        ("slider", "benchmarks/preview.py --narrow --rounds 9 --threads 1"),
        ("slider-sd1", "benchmarks/preview.py --side 32 --rounds 5 --threads 1"),
        ("overhead", f"{TRAINING} --narrow --side 8 --rank 4 --rounds 40"),
        ("step-sd1", f"{TRAINING} --rounds 9"),
        ("step-sdxl", f"{TRAINING} --architecture sdxl --dtype bf16 --side 16 --rounds 7"),
        (
            "step-memory",
            f"{TRAINING} --narrow --side 32 --rounds 1 --weights ALL OUT06-OUT11=1 OUT09-OUT11=1 --memory",
        ),
        ("pieces", "benchmarks/pieces.py --rounds 15"),
        (
            "compiled",
            f'{TRAINING} --narrow --side 16 --rank 4 --rounds 15 --weights ALL --loops ours "ours, compiled"',
        ),
        ("memory", "benchmarks/memory.py"),
        ("analysis", f"benchmarks/analysis.py --threads 1 --out {WORK}/analysis"),
        ("solve", f"benchmarks/solve.py --out {WORK}/solve.jsonl --work {WORK}/solve"),
        ("collision", "benchmarks/collision.py"),
        ("shorter", f"benchmarks/shorter.py --work {WORK}/shorter"),
        ("beside-lbw", f"benchmarks/beside_lbw.py --work {MODELS}/beside-lbw", "NEIGHBOURS_DIR"),
    )
)


@dataclass(frozen=True)
class Result:
    """What a benchmark printed, when, and with what."""

    command: str
    package: str  # the digest of what was measured
    day: str
    seconds: float
    output: str
    others: float | None = None  # cores that other processes kept busy meanwhile; None where the system does not tell


def digest_of(benchmark: Benchmark) -> str:
    """A digest of what is measured and of what measures it: the package, its scripts, the benchmark and its modules."""
    paths = {path for folder in ("lib_blocktrain", "scripts", "javascript") for path in (ROOT / folder).rglob("*")}
    found = {path for path in paths if path.suffix in (".py", ".js", ".json")}
    _add_imported(ROOT / benchmark.words[0], found)
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _add_imported(script: Path, found: set[Path]) -> None:
    """Add a script and the modules of this repository that it imports, and they import."""
    if script in found or not script.is_file():
        return
    found.add(script)
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        else:
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            _add_imported(ROOT / f"{name.replace('.', '/')}.py", found)


def measured(benchmark: Benchmark, work: Path, threads: int) -> Result:
    """Run a benchmark; raises RuntimeError with the end of what it said if it fails."""
    began, others = time.perf_counter(), _others_seconds()
    digest = digest_of(benchmark)
    folders = {WORK: work / digest, MODELS: work}
    folders[WORK].mkdir(exist_ok=True)
    command = [sys.executable, *(_with(folders, word) for word in benchmark.words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    seconds, after = time.perf_counter() - began, _others_seconds()
    busy = None if others is None or after is None else max(0.0, after - others) / seconds
    return Result(benchmark.command, digest, date.today().isoformat(), seconds, done.stdout, busy)


def _others_seconds() -> float | None:
    """Seconds of CPU since the start of the machine, without this process and the children that it has waited for.

    Linux only (``proc(5)``: user, nice and system time of all cores, in ticks).
    """
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("ascii").split(maxsplit=4)[1:4]]
    except OSError:
        return None
    own = os.times()
    return sum(ticks) / os.sysconf("SC_CLK_TCK") - (own.user + own.system + own.children_user + own.children_system)


def _with(folders: Mapping[str, Path | str], text: str) -> str:
    for name, folder in folders.items():
        text = text.replace(name, str(folder))
    return text


def shown(command: str) -> str:
    """A command as a reader types it."""
    return f"python {_with({WORK: 'WORK', MODELS: 'WORK'}, command)}"


def kept(benchmark: Benchmark, work: Path) -> Result | None:
    """Return what is kept of the same command, package and benchmark."""
    path = work / f"{benchmark.name}.json"
    if not path.is_file():
        return None
    result = Result(**json.loads(path.read_text("utf-8")))
    return result if (result.command, result.package) == (benchmark.command, digest_of(benchmark)) else None


def markdown(result: Result) -> str:
    """A result as a part of the document: tables as they are, aligned text as text, the rest as sentences."""
    seconds = round(result.seconds)
    took = f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
    beside = "" if result.others is None else f", while other processes kept {result.others:.2f} cores busy"
    parts = [f"`{shown(result.command)}`, {result.day}, version {__version__}, in {took}{beside}:"]
    for block in re.split(r"\n\s*\n", result.output.strip("\n")):
        lines = [line.rstrip() for line in block.splitlines()]
        for is_table, group in _grouped(lines):
            aligned = len(group) > 1 or re.search(r"\S {2,}\S", group[0])
            parts.append("\n".join(group) if is_table or not aligned else "\n".join(("```text", *group, "```")))
    return "\n\n".join(parts)


def _grouped(lines: Sequence[str]) -> list[tuple[bool, list[str]]]:
    """Lines by whether they are a table's."""
    groups: list[tuple[bool, list[str]]] = []
    for line in lines:
        is_table = line.startswith("|")
        if not groups or groups[-1][0] != is_table:
            groups.append((is_table, []))
        groups[-1][1].append(line)
    return groups


def put(page: str, name: str, text: str) -> str:
    """Return the document with a part replaced; raises ValueError where it has no place for it."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE.name} has no place for {name}: expected {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def write_part(benchmark: Benchmark, result: Result, page: Path) -> None:
    text = put(page.read_text("utf-8"), benchmark.name, markdown(result))
    with atomic_write(page) as temporary:
        temporary.write_text(text, "utf-8")


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing, and write it; return 1 if one failed."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    failed = []
    for benchmark in (one for one in BENCHMARKS if not arguments.only or one.name in arguments.only):
        if benchmark.needs and benchmark.needs not in os.environ:
            print(f"{benchmark.name}: left out, {benchmark.needs} is not set", flush=True)
            continue
        result = None if arguments.again else kept(benchmark, arguments.work)
        if result is None:
            print(f"{benchmark.name}: {benchmark.command}", flush=True)
            try:
                result = measured(benchmark, arguments.work, arguments.threads)
            except RuntimeError as error:
                print(f"{benchmark.name}: failed, {error}", flush=True)
                failed.append(benchmark.name)
                continue
            with atomic_write(arguments.work / f"{benchmark.name}.json") as temporary:
                temporary.write_text(json.dumps(vars(result), indent=1) + "\n", "utf-8")
        write_part(benchmark, result, arguments.page)
        print(f"{benchmark.name}: in {arguments.page.name}, {result.seconds:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return int(bool(failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in BENCHMARKS], help="these (all)")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "benchmarks", help="folder of what was printed")
    parser.add_argument("--page", type=Path, default=PAGE, help="the document (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch's, as OMP_NUM_THREADS (%(default)s)")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--list", action="store_true", help="print the names and commands")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{one.name:12} {shown(one.command)}" for one in BENCHMARKS))
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
