"""PEFT's patterns of layer names: regular expressions, matched in bounded time. Standard library only.

PEFT takes the first pattern for which `re.match(rf"(.*\\.)?({pattern})$", name)` finds something. A pattern comes with
a file, and Python's matcher can take for ever over one: here the parsed expression is followed from all positions at
once.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

MAX_PATTERN = 1000  # characters
MAX_STEPS = 5_000_000  # positions that are followed in one file: seconds
_PLAIN = re.compile(r"[\w.]+")
_CATEGORIES: Mapping[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda character: character.isalnum() or character == "_",
}
Items = Iterable[tuple[Any, Any]]  # operation and argument, as `re` parses them


class LayerPatterns:
    """Matches layers' names against patterns of one file."""

    def __init__(self) -> None:
        self._parsed: dict[str, Items] = {}
        self._steps = 0

    def match(self, pattern: str, name: str) -> bool:
        """Whether PEFT's rule finds the pattern; raise ValueError for what is no expression or cannot be followed."""
        if _PLAIN.fullmatch(pattern):  # nearly all of them: a dot is any character
            end = name[-len(pattern) :]
            whole_parts = len(pattern) == len(name) or name[: -len(pattern)].endswith(".")
            return whole_parts and (end == pattern or re.fullmatch(pattern, end) is not None)
        if pattern not in self._parsed:
            self._parsed[pattern] = _parse(pattern)
        return bool(self._ends(self._parsed[pattern], {0}, name))

    def _ends(self, items: Items, starts: set[int], name: str) -> set[int]:
        """Return the positions after the items, begun at any of these positions."""
        for operation, argument in items:
            self._steps += len(starts)
            if self._steps > MAX_STEPS:
                raise ValueError("too long to match")
            starts = self._after(operation.name, argument, starts, name)
            if not starts:
                break
        return starts

    def _after(self, operation: str, argument: Any, starts: set[int], name: str) -> set[int]:
        if operation == "SUBPATTERN":
            _, added, removed, items = argument
            if added or removed:
                raise ValueError("flags are not supported")
            return self._ends(items, starts, name)
        if operation == "BRANCH":
            return set[int]().union(*(self._ends(items, starts, name) for items in argument[1]))
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = argument
            return self._repeated((int(least), int(most)), items, starts, name)
        if operation == "AT":
            return {position for position in starts if _is_at(argument.name, position, name)}
        return {p + 1 for p in starts if p < len(name) and _fits(operation, argument, name[p])}

    def _repeated(self, times: tuple[int, int], items: Items, starts: set[int], name: str) -> set[int]:
        least, most = times
        for _ in range(least):
            before, starts = starts, self._ends(items, starts, name)
            if starts in (before, set()):  # it stays so
                break
        found, new, count = set(starts), starts, least
        while new and count < most:
            new = self._ends(items, new, name) - found
            found |= new
            count += 1
        return found


def _parse(pattern: str) -> Sequence[tuple[Any, Any]]:
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"{len(pattern)} characters: expected up to {MAX_PATTERN}")
    try:
        parsed: Sequence[tuple[Any, Any]] = _parser.parse(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return parsed


def _is_at(place: str, position: int, name: str) -> bool:
    if place in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return position == 0
    if place in ("AT_END", "AT_END_STRING"):
        return position == len(name) or (place == "AT_END" and name[position:] == "\n")
    raise ValueError(f"{place} is not supported")


def _fits(operation: str, argument: Any, character: str) -> bool:
    """Whether an operation on one character takes this one."""
    if operation in ("LITERAL", "NOT_LITERAL"):
        return (ord(character) == argument) == (operation == "LITERAL")
    if operation == "ANY":
        return character != "\n"
    if operation == "IN":
        negated = any(kind.name == "NEGATE" for kind, _ in argument)
        return negated != any(_is_in(kind.name, value, character) for kind, value in argument)
    raise ValueError(f"{operation} is not supported")


def _is_in(kind: str, value: Any, character: str) -> bool:
    """Whether a character is in one part of a set, such as a-z in [a-z_]."""
    if kind == "LITERAL":
        return ord(character) == int(value)
    if kind == "RANGE":
        return int(value[0]) <= ord(character) <= int(value[1])
    if kind == "CATEGORY":
        category = value.name.removeprefix("CATEGORY_")
        return _CATEGORIES[category.removeprefix("NOT_")](character) != category.startswith("NOT_")
    return False  # NEGATE
