"""One tag of a prompt for an editor at the cursor: what it says, and the tag with a change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from lib_blocktrain.blocks import ARCHITECTURES, BASE
from lib_blocktrain.networks.cards import recommended_text
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.card_preset import CARD, uses_card
from lib_blocktrain.weights.preset_strings import Parsed
from lib_blocktrain.weights.prompt_tags import Tag, read_tag
from lib_blocktrain.weights.tag_steps import TagError
from lib_blocktrain.weights.tagged_prompts import tag_at
from lib_blocktrain.workspace.lora_files import LoraFile
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.preset_store import PresetStore, as_changes

_PRESET = re.compile(r"[^,|#:=]+")


@dataclass(frozen=True)
class TagChange:
    """What an editor changes of a tag; None leaves it. `weights` is a preset string, "" for none, or else `values`.

    `end` 0 is none: the LoRA acts until the last step.
    """

    strength: float | None = None
    weights: str | None = None
    values: Mapping[str, float] | None = None
    first: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class EditedTag:
    """A tag and what it means; `start` and `stop` are its place in the prompt, in UTF-16 units as a browser counts.

    `text` is the tag after the change. `values` are its weights by block with BASE, None if they cannot be read:
    `problem` says why. `lacks` are the blocks in which the LoRA has no layers; `fixed` says why its strength cannot be
    changed here.
    """

    start: int
    stop: int
    text: str
    name: str
    strength: float
    fixed: str
    weights: str
    preset: str
    values: Mapping[str, float] | None
    first: int
    end: int
    architecture: str
    presets: tuple[str, ...]
    lacks: tuple[str, ...]
    problem: str
    notices: tuple[str, ...]


class TagEditor:
    """Reads and changes the tags of prompts, for LoRAs in the host's folders."""

    def __init__(self, loras: LoraIndex, presets: PresetStore) -> None:
        self._loras, self._presets = loras, presets

    def edit(self, prompt: str, position: int, change: TagChange | None = None) -> EditedTag | None:
        """Return the tag that the cursor is in, with a change; None without one. Raises ValueError.

        ``position`` counts UTF-16 units, as a browser does.
        """
        found = tag_at(prompt, len(_utf16(prompt)[: 2 * position].decode("utf-16-le", "ignore")))
        if found is None:
            return None
        file = self._file(found.items[0])
        architecture = file.architecture if file is not None else "sd1"
        try:
            tag = read_tag(found.items)
        except TagError as error:
            raise ValueError(f"{prompt[found.start : found.end]}: {error}") from error
        text = prompt[found.start : found.end]
        if change is not None:
            tag = self._changed(tag, change, architecture, file)
            text = f"<{found.kind}:{':'.join(tag.items)}>"
        start = len(_utf16(prompt[: found.start])) // 2
        stop = start + len(_utf16(prompt[found.start : found.end])) // 2
        return self._described(tag, text, start, stop, architecture, file)

    def _described(
        self, tag: Tag, text: str, start: int, stop: int, architecture: str, file: LoraFile | None
    ) -> EditedTag:
        values, problem, notices = None, "", tag.notices
        try:
            parsed = self._parsed(tag, architecture, file)
            values, notices = dict(parsed.weights.with_base), (*notices, *parsed.notices)
            stay = [*(rule.text(architecture) for rule in parsed.rules), *(i for g in parsed.gates for i in g.items)]
            notices += tuple(f"{entry} stays as written" for entry in stay)
        except (ValueError, OSError) as error:
            problem = str(error)
        if file is None:
            notices = (*notices, f"{tag.name} is not in the folders: shown as for {ARCHITECTURES[architecture].title}")
        numbers = [item for item in tag.plain[1:] if "=" not in item]
        named = [item for item in tag.plain[1:] if "=" in item]
        if tag.strength is not None:  # over the steps
            numbers, named = numbers[:1], [tag.strength, *named]
        head = _PRESET.match(tag.weights or "")
        names = self._presets.names(architecture)
        if file is not None and file.recommended is not None:
            names = [CARD, *names]
        return EditedTag(
            start=start,
            stop=stop,
            text=text,
            name=tag.name,
            strength=float(numbers[0]) if numbers else 1.0,
            fixed=f"{', '.join([*numbers[1:], *named])} in the tag" if named or len(numbers) > 1 else "",
            weights=tag.weights or "",
            preset=head[0].strip() if head and head[0].strip() in names else "",
            values=values,
            first=tag.steps.first,
            end=tag.steps.end or 0,
            architecture=architecture,
            presets=tuple(names),
            lacks=tuple(b for b in (BASE, *ARCHITECTURES[architecture].block_ids) if file and file.lacks(b)),
            problem=problem,
            notices=notices,
        )

    def _changed(self, tag: Tag, change: TagChange, architecture: str, file: LoraFile | None) -> Tag:
        if change.strength is not None:
            more = [item for item in tag.plain[1:] if "=" in item]
            tag = replace(tag, plain=(tag.plain[0], number(change.strength), *more))
        if change.weights is not None:
            tag = replace(tag, weights=change.weights.strip() or None, x=tag.x if change.weights else None)
            if re.search("[:>]", change.weights):
                raise ValueError(f"{change.weights[:80]!r} cannot stand in a tag: expected no colon and no >")
        elif change.values is not None:
            weights = BlockWeights(architecture, {k: v for k, v in change.values.items() if k != BASE}, _base(change))
            parsed = self._parsed(tag, architecture, file)
            if parsed.layers.changes:
                return self._stepped(
                    replace(tag, weights=_appended(tag.weights or "", parsed.weights, weights)), change
                )
            plain = weights == BlockWeights.uniform(architecture, 1.0)
            tag = replace(tag, weights=None if plain else self._shortest(weights, tag.weights or "", file), x=None)
        return self._stepped(tag, change)

    @staticmethod
    def _stepped(tag: Tag, change: TagChange) -> Tag:
        first = tag.steps.first if change.first is None else max(1, change.first)
        end = tag.steps.end if change.end is None else change.end or None
        if end is not None and end <= first:
            raise ValueError(f"stop before step {end}, and start at {first}: expected a stop after the start")
        return replace(tag, steps=replace(tag.steps, first=first, end=end))

    def _shortest(self, weights: BlockWeights, before: str, file: LoraFile | None) -> str:
        """The weights as changes of what the tag began with, where that is shorter than others."""
        head = _PRESET.match(before)
        text = self._presets.shortest(weights, head[0].strip() if head else "")
        if file is None or not uses_card(before):
            return text
        card = self._presets.parse(CARD, weights.architecture, recommended=partial(recommended_text, file.path))
        return min(as_changes(CARD, card.weights, weights), text, key=len)

    def _parsed(self, tag: Tag, architecture: str, file: LoraFile | None) -> Parsed:
        if tag.weights is None:
            return Parsed(BlockWeights.uniform(architecture, 1.0), "none")
        card = partial(recommended_text, file.path) if file is not None else None
        return self._presets.parse(tag.weights, architecture, x=tag.x, recommended=card, layers=True)

    def _file(self, name: str) -> LoraFile | None:
        """The LoRA that the WebUI finds by this name: its file's, or the one that its metadata give it."""
        file = self._loras.named(name)
        return None if file is None or file.problem else file


def _appended(text: str, before: BlockWeights, after: BlockWeights) -> str:
    """The text with the blocks that have changed; what it says of kinds of layers and of steps elsewhere stays."""
    old = before.with_base
    changed = {block: weight for block, weight in after.with_base.items() if weight != old[block]}
    return ",".join([text, *(f"{block}={number(weight)}" for block, weight in changed.items())])


def _base(change: TagChange) -> float:
    return (change.values or {}).get(BASE, 1.0)


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
