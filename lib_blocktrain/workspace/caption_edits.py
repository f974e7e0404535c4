"""From what is to be done to captions to edits of their files, and from an edit back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.workspace.caption_files import Caption
from lib_blocktrain.workspace.caption_operations import operation_of, tag_counts
from lib_blocktrain.workspace.set_changes import ChangedMeanwhile, Edit, FileEdit
from lib_blocktrain.workspace.set_folders import Contents, Entry, missing
from lib_blocktrain.workspace.set_listing import Listed


@dataclass(frozen=True)
class Planned:
    """What an operation would write; `unchanged` counts the pictures left as they are, `problems` name unread ones."""

    title: str
    edits: tuple[FileEdit, ...]
    unchanged: int
    problems: tuple[str, ...]


def planned(
    key: str,
    contents: Contents,
    listed: Sequence[Listed],
    operation: object,
    pictures: Sequence[str] | None = None,
    stamps: Mapping[str, str] | None = None,
) -> Planned:
    """Return what an operation does to these pictures of a set, all unless given.

    `listed` is the whole set. Raises FileNotFoundError for an unknown picture, ChangedMeanwhile for other `stamps`.
    """
    wanted = operation_of(operation)
    chosen = listed
    if pictures is not None:
        by_key = {one.entry.key: one for one in listed}
        chosen = [by_key.get(picture) or missing(key, picture) for picture in pictures]
    check_stamps(chosen, stamps or {})
    counts = tag_counts([one.captioned for one in listed])
    edits, problems = list[FileEdit](), list[str]()
    for one in chosen:
        if one.caption_problem:
            problems.append(one.caption_problem)
            continue
        line = wanted.line(one.captioned, counts)
        if line is None or line == (one.line or ""):
            continue
        after = one.caption.with_first_line(line)
        edits.append(FileEdit(one.entry.key, caption_path(one.entry, contents), one.caption.content, after))
    return Planned(wanted.title, tuple(edits), len(chosen) - len(edits) - len(problems), tuple(problems))


def caption_path(entry: Entry, contents: Contents) -> Path:
    """The caption file of a picture; a new one ends as most of the set do."""
    if entry.found.caption_file is not None:
        return entry.found.caption_file
    known = entry.found.options.caption_extensions
    there = [other.found.caption_file.suffix for other in contents.entries if other.found.caption_file is not None]
    return entry.path.with_suffix(max(known, key=there.count))


def check_stamps(listed: Sequence[Listed], stamps: Mapping[str, str]) -> None:
    """Raise ChangedMeanwhile for captions that are not as their stamps say."""
    others = [one for one in listed if stamps.get(one.entry.key, one.caption.stamp) != one.caption.stamp]
    if others:
        names = [(one.entry.found.caption_file or one.entry.path.with_suffix(".txt")).name for one in others]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise ChangedMeanwhile(
            f"{', '.join(names[:10])}{more}: changed by another program since it was read, and nothing was written:"
            " read again"
        )


def as_text(edit: FileEdit) -> Edit:
    """The edit with its texts, where it is of a caption."""
    before, after = Caption(edit.before), Caption(edit.after)
    texts: list[str | None] = [None, None]
    if edit.path.suffix not in (".png", ".json"):
        for place, caption in enumerate((before, after)):
            with suppress(ValueError):
                texts[place] = None if caption.content is None else caption.text
    return Edit(edit.picture, texts[0], texts[1], before.stamp, after.stamp)
