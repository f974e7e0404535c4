"""Stretches of a text that know where they stand, so that an error can point at a character."""

import math
import re
from typing import NamedTuple

# Narrower than float(): no nan, inf or 1_000; and each digit fits one place only, so that long ones are read at once.
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


class PresetStringError(ValueError):
    """A preset string that cannot be read; `position` is the offending character's, counted from 0."""

    def __init__(self, message: str, position: int):
        super().__init__(f"{message} (character {position + 1})")
        self.position = position


class Span(NamedTuple):
    """A stretch of the text that was given, and the position of its first character there."""

    text: str
    position: int = 0

    @property
    def end(self) -> int:
        return self.position + len(self.text)

    @property
    def shown(self) -> str:
        """The text as an error message quotes it."""
        return repr(self.text if len(self.text) <= 60 else f"{self.text[:57]}...")

    def cut(self, start: int, end: int | None = None) -> "Span":
        """Return a part of it, as a slice of its text."""
        return Span(self.text[start:end], self.position + min(start, len(self.text)))

    def strip(self, characters: str | None = None) -> "Span":
        """Return it without these characters at its ends; without white space if none are given."""
        kept = self.text.lstrip(characters)
        return Span(kept.rstrip(characters), self.end - len(kept))

    def partition(self, separator: str) -> tuple["Span", "Span"]:
        """Return what stands before the first separator and what stands after it, both stripped."""
        before, found, _ = self.text.partition(separator)
        return self.cut(0, len(before)).strip(), self.cut(len(before) + len(found)).strip()

    def split(self, separator: str) -> list["Span"]:
        """Return what stands between separators, stripped."""
        parts, position = [], self.position
        for text in self.text.split(separator):
            parts.append(Span(text, position).strip())
            position += len(text) + len(separator)
        return parts

    def error(self, message: str) -> PresetStringError:
        return PresetStringError(message, self.position)

    def number(self) -> float:
        """Return the finite number that is written here, or raise PresetStringError."""
        if not self.text:
            raise self.error("empty value: expected a number")
        if not re.fullmatch(NUMBER, self.text):
            raise self.error(f"{self.shown}: expected a number")
        value = float(self.text)
        if not math.isfinite(value):
            raise self.error(f"{self.shown} is too large: expected a finite number")
        return value
