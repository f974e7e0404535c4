"""What is drawn at once in Preview: a comparison, or a grid over presets, a block, strengths, seeds or LoRAs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lib_blocktrain.hosts.host import Cancelled, OutOfMemory
from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import pictures_html
from lib_blocktrain.ui.remembered import selection_json
from lib_blocktrain.weights.block_weights import number
from lib_blocktrain.weights.tagged_prompts import without
from lib_blocktrain.workspace.drawing import WEIGHTED, Cell, Settings, Variant
from lib_blocktrain.workspace.drawn_pictures import DrawnPicture
from lib_blocktrain.workspace.lora_selection import LoraSelection

OVER_PRESETS, OVER_BLOCK, OVER_STRENGTH, OVER_SEED, OVER_LORA = GRIDS = (
    "presets", "one block", "strength", "seed", "LoRA",
)  # fmt: skip
_TAG = "<lora:{}:{}:bw={}>"  # plain text, as in a prompt


class Sheet(ABC):
    """The pictures of one drawing, and the widget that shows them."""

    widget: str
    variants: Sequence[Variant]
    settings: Settings

    @abstractmethod
    def html(
        self,
        drawn: Mapping[int, DrawnPicture],
        *,
        busy: bool = False,
        error: BaseException | None = None,
        entry: Mapping[str, object] | None = None,
    ) -> Markup:
        """The pictures drawn so far. ``error`` ended the drawing; ``entry``: id, time, seconds and files of it."""

    @property
    def size(self) -> tuple[int, int]:
        return self.settings.width, self.settings.height


@dataclass(frozen=True)
class Names:
    """LoRAs in use, and for each the name of the preset that has its weights, None where there is none.

    ``texts`` are their weights as preset strings, for the prompt's tags, ``stems`` the names of their files, by which a
    WebUI knows them, and ``aliases`` those that their metadata give them, by which a prompt may have them, too.
    """

    selection: LoraSelection
    presets: Mapping[str, str | None]
    texts: Mapping[str, str]
    stems: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What stands below the picture under the weights."""
        return self.presets.get(self.selection.active or "") or "your weights"

    def tags(self) -> str:
        """The LoRAs of the picture as tags of a WebUI's prompt.

        Each with its weights, those of 1 too: the weights of the accordion are for tags without any.
        """
        return " ".join(
            _TAG.format(self.stems[key], number(entry.strength), self.texts[key])
            for key, entry in self.selection.unmuted.items()
        )

    def data(self, prompt: str) -> dict[str, object]:
        """What the page's scripts are told: the tags, and the prompt for a WebUI, with them in place of its own."""
        names = {*self.stems.values(), *self.aliases.values()}
        tags = self.tags()
        return {"tag": tags, "prompt": " ".join(filter(None, [without(prompt, names)[0], tags]))}


@dataclass(frozen=True)
class Comparison(Sheet):
    """Three pictures; ``before`` are those of the last time, ``stored`` the selection and settings as JSON."""

    variants: Sequence[Variant]
    settings: Settings
    before: Mapping[str, DrawnPicture]
    stored: Mapping[str, object]
    names: Names

    widget = "pictures"

    def html(
        self,
        drawn: Mapping[int, DrawnPicture],
        *,
        busy: bool = False,
        error: BaseException | None = None,
        entry: Mapping[str, object] | None = None,
    ) -> Markup:
        failed = None
        if error is not None and not isinstance(error, Cancelled):
            failed = pictures_html.failure(describe_error(error), self.size, isinstance(error, OutOfMemory))
        data = {"values": self.stored, "seed": str(self.settings.seed), **self.names.data(self.settings.prompt)}
        if entry is not None:
            arms = [
                {"name": variant.name, "title": variant.title, "file": file}
                for variant, file in zip(self.variants, entry["files"], strict=True)  # type: ignore[call-overload]
            ]
            kept = {name: value for name, value in entry.items() if name != "files"}
            data["entry"] = {**kept, "pictures": arms, "values": self.stored, "seed": self.settings.seed}
        names = {WEIGHTED: self.names.shown}
        return pictures_html.comparison(
            self.variants,
            drawn,
            self.size,
            before=self.before,
            names=names,
            failed=failed,
            busy=busy,
            data=data,
        )


@dataclass(frozen=True)
class Grid(Sheet):
    """A picture without LoRAs and one for each cell; ``over`` is one of `GRIDS`."""

    variants: Sequence[Variant]
    settings: Settings
    over: str
    cells: Sequence[Cell]

    widget = "grid_pictures"

    def html(
        self,
        drawn: Mapping[int, DrawnPicture],
        *,
        busy: bool = False,
        error: BaseException | None = None,
        entry: Mapping[str, object] | None = None,
    ) -> Markup:
        uses: list[Mapping[str, object] | None] = [None]
        for cell in self.cells:
            seed = {"seed": cell.seed} if cell.seed is not None else {}
            uses.append({**selection_json(cell.selection), **seed})
        said = {
            OVER_PRESETS: "one for each preset",
            OVER_BLOCK: "one for each weight of the block",
            OVER_STRENGTH: "one for each strength",
            OVER_SEED: "one for each seed",
            OVER_LORA: "one for each LoRA in use, alone",
        }[self.over]
        return pictures_html.grid(self.variants, drawn, self.size, said, uses)
