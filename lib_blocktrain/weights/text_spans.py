"""Substrings that know their position in the text, so that an error can point at a character."""

import math
import re
from typing import NamedTuple

# Narrower than float(): no nan, inf or 1_000. Each digit can match in one place only: no backtracking on long texts.
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


class PresetStringError(ValueError):
    """A preset string that cannot be read; `position` is that of the character at fault, counted from 0."""

    def __init__(self, message: str, position: int):
        super().__init__(f"{message} (character {position + 1})")
        self.message, self.position = message, position


class Span(NamedTuple):
    """A part of a text, and the position of its first character there."""

    text: str
    position: int = 0

    @property
    def end(self) -> int:
        return self.position + len(self.text)

    @property
    def shown(self) -> str:
        """The text as error messages quote it."""
        return repr(self.text if len(self.text) <= 60 else f"{self.text[:57]}...")

    def cut(self, start: int, end: int | None = None) -> "Span":
        """Return the part `text[start:end]`."""
        return Span(self.text[start:end], self.position + min(start, len(self.text)))

    def strip(self, characters: str | None = None) -> "Span":
        """Return it without these characters (white space if None) at its ends."""
        kept = self.text.lstrip(characters)
        return Span(kept.rstrip(characters), self.end - len(kept))

    def partition(self, separator: str) -> tuple["Span", "Span"]:
        """Return the parts before and after the first separator, stripped."""
        before, found, _ = self.text.partition(separator)
        return self.cut(0, len(before)).strip(), self.cut(len(before) + len(found)).strip()

    def split(self, separator: str) -> list["Span"]:
        """Return the parts between separators, stripped."""
        parts, position = [], self.position
        for text in self.text.split(separator):
            parts.append(Span(text, position).strip())
            position += len(text) + len(separator)
        return parts

    def error(self, message: str) -> PresetStringError:
        return PresetStringError(message, self.position)

    def number(self) -> float:
        """Return the finite number that the text is, or raise PresetStringError."""
        if not self.text:
            raise self.error("empty value: expected a number")
        if not re.fullmatch(NUMBER, self.text):
            raise self.error(f"{self.shown}: expected a number")
        value = float(self.text)
        if not math.isfinite(value):
            raise self.error(f"{self.shown} is too large: expected a finite number")
        return value
