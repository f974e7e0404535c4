"""What can be done to many captions at once; each operation works on the first line, which training reads."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lib_blocktrain.training.captions import as_words
from lib_blocktrain.training.config_json import ConfigError, read

MAX_TEXT = 2000  # characters of a text in an operation


@dataclass(frozen=True)
class Captioned:
    """A picture's caption as an operation sees it: its first line, None without a file, and what else there is."""

    line: str | None
    stem: str  # of the picture's file
    concept: str  # of its folder
    separator: str = ","

    @property
    def tags(self) -> list[str]:
        return [tag for part in (self.line or "").split(self.separator) if (tag := part.strip())]

    def joined(self, tags: Sequence[str]) -> str:
        """The tags as a line."""
        between = self.separator if self.separator[-1].isspace() else f"{self.separator} "
        return between.join(tags)


class Operation(ABC):
    """A change of captions. `line` returns the new first line, None to leave a picture as it is."""

    op: ClassVar[str]

    @property
    @abstractmethod
    def title(self) -> str:
        """What it does, as it is listed among the changes."""

    @abstractmethod
    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        """Return the new line; `counts` are the tags of the whole set."""


@dataclass(frozen=True)
class Replace(Operation):
    """Text for other text, or one whole tag for another ("" removes it)."""

    op: ClassVar[str] = "replace"
    find: str
    replace: str = ""
    whole_tag: bool = False
    case: bool = True

    @property
    def title(self) -> str:
        return f"“{self.find}” replaced by “{self.replace}”"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        if caption.line is None:
            return None
        if not self.whole_tag:
            found = re.compile(re.escape(self.find), 0 if self.case else re.IGNORECASE)
            return found.sub(lambda _: self.replace, caption.line)
        sought = self.find.strip()
        same = [tag == sought or (not self.case and tag.casefold() == sought.casefold()) for tag in caption.tags]
        new = [self.replace.strip() if is_same else tag for tag, is_same in zip(caption.tags, same, strict=True)]
        return caption.joined(list(dict.fromkeys(filter(None, new)))) if any(same) else None


@dataclass(frozen=True)
class AddTag(Operation):
    """A tag where it is not yet."""

    op: ClassVar[str] = "add tag"
    tag: str
    at: Literal["start", "end"] = "end"

    @property
    def title(self) -> str:
        return f"“{self.tag}” added at the {self.at}"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        tags, tag = caption.tags, self.tag.strip()
        if tag in tags:
            return None
        if not tags:
            return tag
        return caption.joined([tag, caption.line or ""] if self.at == "start" else [caption.line or "", tag])


@dataclass(frozen=True)
class RemoveTag(Operation):
    """A tag taken out wherever it is."""

    op: ClassVar[str] = "remove tag"
    tag: str

    @property
    def title(self) -> str:
        return f"“{self.tag}” removed"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        kept = [tag for tag in caption.tags if tag != self.tag.strip()]
        return caption.joined(kept) if len(kept) < len(caption.tags) else None


@dataclass(frozen=True)
class Trigger(Operation):
    """A word as the first tag of every caption."""

    op: ClassVar[str] = "trigger"
    word: str

    @property
    def title(self) -> str:
        return f"“{self.word}” in front"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        word = self.word.strip()
        if caption.tags[:1] == [word]:
            return None
        return caption.joined([word, *(tag for tag in caption.tags if tag != word)])


@dataclass(frozen=True)
class Order(Operation):
    """These tags first, in this order; the others stay as they are, behind them."""

    op: ClassVar[str] = "order"
    tags: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"tags in order: {', '.join(self.tags[:4])}{' …' if len(self.tags) > 4 else ''}"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        places = {tag.strip(): number for number, tag in enumerate(self.tags)}
        return _sorted(caption, [places.get(tag, len(places)) for tag in caption.tags])


@dataclass(frozen=True)
class SortByCount(Operation):
    """The tags that most captions of the set have first."""

    op: ClassVar[str] = "sort by count"

    @property
    def title(self) -> str:
        return "tags sorted by their count"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        return _sorted(caption, [-counts.get(tag, 0) for tag in caption.tags])


@dataclass(frozen=True)
class FromNames(Operation):
    """The name of the file, without a number behind it: `red_hat-012.png` gives "red hat"."""

    op: ClassVar[str] = "from names"
    overwrite: bool = False

    @property
    def title(self) -> str:
        return "captions from file names"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        return _unless_there(caption, self.overwrite, as_words(caption.stem))


@dataclass(frozen=True)
class FromFolders(Operation):
    """The concept in the folder's name: `10_robot` gives "robot"."""

    op: ClassVar[str] = "from folders"
    overwrite: bool = False

    @property
    def title(self) -> str:
        return "captions from folder names"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        return _unless_there(caption, self.overwrite, " ".join(caption.concept.replace("_", " ").split()))


@dataclass(frozen=True)
class Clear(Operation):
    """Empty captions, where there are any."""

    op: ClassVar[str] = "clear"

    @property
    def title(self) -> str:
        return "captions emptied"

    def line(self, caption: Captioned, counts: Mapping[str, int]) -> str | None:
        return None if caption.line is None else ""


OPERATIONS: dict[str, type[Any]] = {
    kind.op: kind for kind in (Replace, AddTag, RemoveTag, Trigger, Order, SortByCount, FromNames, FromFolders, Clear)
}
_NEEDED = {"replace": "find", "add tag": "tag", "remove tag": "tag", "trigger": "word"}


def operation_of(data: object) -> Operation:
    """Return the operation that a JSON object with `op` asks for; raise ConfigError, a ValueError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"operation {str(data)[:60]!r}: expected an object")
    name = data.get("op")
    kind = OPERATIONS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"operation {str(name)[:60]!r}: expected one of {', '.join(OPERATIONS)}")
    found: Operation = read(kind, {key: value for key, value in data.items() if key != "op"}, "operation")
    needed = _NEEDED.get(found.op)
    if needed is not None and not getattr(found, needed).strip():
        raise ConfigError(f"operation.{needed}: nothing is given: expected text")
    texts = [value for value in vars(found).values() if isinstance(value, str)]
    texts += [text for value in vars(found).values() if isinstance(value, tuple) for text in value]
    for text in texts:
        if len(text) > MAX_TEXT or len(text.splitlines()) > 1 or "\n" in text:
            raise ConfigError(f"operation: {text[:60]!r}: expected a line of up to {MAX_TEXT} characters")
    return found


def tag_counts(captions: Sequence[Captioned]) -> Counter[str]:
    """Number of captions by tag."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(set(caption.tags))
    return counts


def _sorted(caption: Captioned, keys: Sequence[int]) -> str | None:
    order = sorted(range(len(keys)), key=lambda n: (keys[n], n))
    return caption.joined([caption.tags[n] for n in order]) if order != list(range(len(keys))) else None


def _unless_there(caption: Captioned, overwrite: bool, line: str) -> str | None:
    return line if line and (overwrite or not caption.line) else None
