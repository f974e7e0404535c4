"""Preset files: text files that people may edit, one preset per line, `#` before a comment.

    # what I use
    HAIR:1,0,0,0,0,0,0,0,1,1,0,0,0,0,0,0,0 | arch=sd1 canvas=0.1  # long hair in a portrait

An edit changes the lines of its preset only: comments, order and unreadable lines stay as they are.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.files import LONGEST_NAME, atomic_write
from lib_blocktrain.weights.card_preset import CARD
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import Preset
from lib_blocktrain.weights.text_spans import PresetStringError, Span

MAX_FILE_SIZE = 1_000_000  # bytes: thousands of presets, read in seconds
_NAME = re.compile(r"(?!\s)[^:,|=#{\r\n\ufeff\ud800-\udfff]+(?<!\s)")


@dataclass(frozen=True)
class LineProblem:
    """An error in a line; lines count from 1, positions in a line from 0."""

    line: int
    text: str
    message: str
    position: int = 0

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class PresetLines:
    """The presets of a text by name (the last one of a name counts), and its errors."""

    presets: dict[str, Preset]
    problems: tuple[LineProblem, ...]


class PresetFile:
    """The presets of one file. Every change reads the file again, so that changes made elsewhere are not lost."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def read(self) -> PresetLines:
        """Return the presets of the file, none if it does not exist."""
        return read_presets("\n".join(self._lines()))

    def put(self, *presets: Preset) -> None:
        """Add presets or replace those of the same name; raise ValueError for one that would not read back."""
        lines = self._lines()
        ending = "\r" if lines and lines[0].endswith("\r") else ""
        index_of = {known.name: index for index, line in enumerate(lines) if (known := _preset_of(line))}
        end = len(lines) - 1 if lines and not lines[-1] else len(lines)
        for preset in presets:
            line = to_line(preset) + ending
            if preset.name in index_of:
                lines[index_of[preset.name]] = line
            else:
                lines.insert(end, line)
                index_of[preset.name], end = end, end + 1
        self._write(lines)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a preset; raise ValueError if it is missing or the new name is taken or not allowed."""
        lines = self._lines()
        indices = self._existing(lines, name)
        if self._indices(lines, new_name):
            raise ValueError(f"there is a preset {new_name!r} already in {self.path}")
        _check_name(new_name)
        for index in indices:
            lines[index] = new_name + lines[index][lines[index].index(":") :]
        self._write(lines)

    def delete(self, name: str) -> None:
        """Delete a preset; raise ValueError if it is missing."""
        lines = self._lines()
        indices = self._existing(lines, name)
        self._write([line for index, line in enumerate(lines) if index not in indices])

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        if self.path.stat().st_size > MAX_FILE_SIZE:
            raise ValueError(f"{self.path} is larger than {MAX_FILE_SIZE} bytes: expected presets, one per line")
        # bytes that are not UTF-8 are kept as they are; read_presets reports them
        text = self.path.read_bytes().decode("utf-8", "surrogateescape")
        return text.removeprefix("\ufeff").split("\n") if text else []

    def _write(self, lines: list[str]) -> None:
        text = "\n".join(lines if not lines or not lines[-1] else [*lines, ""])
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))

    def _existing(self, lines: list[str], name: str) -> list[int]:
        indices = self._indices(lines, name)
        if not indices:
            raise ValueError(f"there is no preset {name!r} in {self.path}")
        return indices

    @staticmethod
    def _indices(lines: Iterable[str], name: str) -> list[int]:
        """Return the indices of the lines with this preset; unreadable lines belong to none."""
        return [index for index, line in enumerate(lines) if (preset := _preset_of(line)) and preset.name == name]


def read_presets(text: str) -> PresetLines:
    """Read presets, one per line; an error in one line does not affect the others."""
    presets: dict[str, Preset] = {}
    line_of: dict[str, int] = {}
    problems = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.partition("#")[0].strip():
            continue
        try:
            preset = read_line(line)
        except PresetStringError as error:
            problems.append(LineProblem(number, line, str(error), error.position))
            continue
        if preset.name in presets:
            message = f"{preset.name} is also in line {line_of[preset.name]}: this one counts"
            problems.append(LineProblem(number, line, message))
        presets[preset.name], line_of[preset.name] = preset, number
    return PresetLines(presets, tuple(problems))


def read_lbw_presets(text: str) -> PresetLines:
    """Read LoRA Block Weight's lbwpresets.txt: a line with `#` anywhere is a comment, 61 values are for Flux."""
    found = read_presets("\n".join("" if "#" in line else line for line in text.split("\n")))
    problems = [
        LineProblem(problem.line, problem.text, "61 values are for Flux: skipped")
        if problem.text.count(",") == 60
        else problem
        for problem in found.problems
    ]
    return PresetLines(found.presets, tuple(problems))


def named_preset(line: str, name: str, purpose: str) -> Preset:
    """Return the preset of a line of weights with a purpose; raise ValueError for a name that cannot be one."""
    try:
        read = read_line(f"{line}  # {' '.join(purpose.replace('#', '').split())}")
    except PresetStringError:
        read = None
    if read is None or read.name != name:
        raise ValueError(f"{name!r} cannot name a preset: expected one line, none of : , | = # {{")
    return read


def read_line(line: str) -> Preset:
    """Read a line, `NAME:preset string  # purpose`, for all architectures that it fits; raise PresetStringError."""
    undecoded = re.search("[\ud800-\udfff]", line)
    if undecoded:
        raise PresetStringError("not UTF-8", undecoded.start())
    before, purpose = Span(line).partition("#")
    name, text = before.partition(":")
    if not name.text or not text.text:
        raise before.error(f"{before.shown}: expected NAME:values")
    fitting, errors = [], {}
    for architecture_id in ARCHITECTURES:
        try:
            # any seed and x: they do not decide whether it can be read
            parse(line, architecture_id, seed=0, x=0.0, presets={}, layers=True)
            fitting.append(architecture_id)
        except PresetStringError as error:
            errors[architecture_id] = error
    if not fitting:
        named = re.search(r"\barch=(\w+)", text.text)
        raise errors.get(named[1] if named else "sd1", errors["sd1"])
    return Preset(name.text, tuple(fitting), text.text, purpose.text)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a preset: expected one line, none of : , | = # {{")
    if name == CARD:
        raise ValueError(f"{name!r} cannot name a preset: it stands for what the LoRA's card recommends")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name)} characters cannot name a preset: expected up to {LONGEST_NAME}")


def to_line(preset: Preset) -> str:
    """Return the line of a preset, `NAME:preset string  # purpose`; raise ValueError if it would not read back."""
    _check_name(preset.name)
    line = f"{preset.name}:{preset.text}" + (f"  # {preset.purpose}" if preset.purpose else "")
    read = read_line(line)
    if re.search(r"[\r\n]", line) or (read.name, read.text, read.purpose) != (preset.name, preset.text, preset.purpose):
        raise ValueError(f"{line!r} does not read back as preset {preset.name!r}")
    return line


def _preset_of(line: str) -> Preset | None:
    try:
        return read_line(line)
    except PresetStringError:
        return None
