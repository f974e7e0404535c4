"""Pictures on disk: PNGs that carry their parameters, and contact sheets."""

from __future__ import annotations

import io
import itertools
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from lib_blocktrain.files import atomic_write

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import SampleRequest

LONGEST = 50_000  # characters of a picture's parameters
MARGIN, TITLE = 8, 22  # pixels
_NEGATIVE = "Negative prompt: "
_PAIR = re.compile(r'\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')  # as in the WebUI's infotext_utils


@dataclass(frozen=True)
class SavedLora:
    """A LoRA as a picture's parameters name it: its weights are a preset string."""

    name: str
    weights: str
    multiplier: float


@dataclass(frozen=True)
class Parameters:
    """What a picture says that it was made with; ``values`` are the `Name: value` pairs as they stand there."""

    prompt: str
    negative: str
    values: Mapping[str, str]

    @property
    def loras(self) -> tuple[SavedLora, ...]:
        """The LoRAs that this extension wrote down; those of a prompt's own tags are not among them."""
        numbers = itertools.takewhile(
            lambda n: {f"LoRA {n}", f"Block weights {n}"} <= set(self.values), itertools.count(1)
        )
        return tuple(
            SavedLora(
                self.values[f"LoRA {number}"],
                self.values[f"Block weights {number}"],
                _number(f"Multiplier {number}", self.values.get(f"Multiplier {number}", "1")),
            )
            for number in numbers
        )


def infotext(request: SampleRequest, picture: Image.Image, model: str) -> str:
    """The request as the WebUI writes it: prompt, negative prompt, then ``Name: value`` pairs."""
    pairs = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "CFG scale": f"{request.cfg:g}",
        "Seed": request.seed,
        "Size": f"{picture.width}x{picture.height}",
        "Model": model,
    }
    for number, placement in enumerate(request.placements, start=1):
        pairs[f"LoRA {number}"] = placement.network.name
        pairs[f"Block weights {number}"] = placement.weights.to_line(with_architecture=True)
        pairs[f"Multiplier {number}"] = f"{placement.multiplier:g}"
    lines = [request.prompt]
    if request.negative:
        lines.append(f"{_NEGATIVE}{request.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {_quoted(str(value))}" for name, value in pairs.items())])


def read_infotext(text: str) -> Parameters:
    """Read what `infotext`, or the WebUI, wrote. The last line holds the pairs; raises ValueError if it has none."""
    if len(text) > LONGEST:
        raise ValueError(f"parameters of {len(text)} characters: expected up to {LONGEST}")
    *lines, last = text.split("\n")
    values = {found[1]: _unquoted(found[2]) for found in _pairs(last)}
    if len(values) < 3:  # the WebUI's own rule: a prompt may have a colon too
        raise ValueError(f"no generation parameters in {last[:80]!r}: expected such as 'Steps: 20, Sampler: DDIM, ...'")
    start = next((n for n, line in enumerate(lines) if line.startswith(_NEGATIVE.rstrip())), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(_NEGATIVE.rstrip()).removeprefix(" ")
    return Parameters("\n".join(lines[:start]), negative, values)


def _pairs(line: str) -> Iterator[re.Match[str]]:
    """The `Name: value` pairs of a line; what is none is passed over up to the next comma, so that none takes long."""
    position = 0
    while position < len(line):
        found = _PAIR.match(line, position)
        if found:
            yield found
        position = found.end() if found else (line.find(",", position) + 1 or len(line))


def read_png(path: Path) -> Parameters:
    """The parameters in a PNG; raises ValueError for a file that has none or is no PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = picture.info.get("parameters")
    except (UnidentifiedImageError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"{path.name} is no PNG: expected a picture that was saved with its parameters") from error
    except (ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"{path.name} carries no parameters: programs that edit pictures drop them")
    return read_infotext(text)


def save_png(picture: Image.Image, path: Path, request: SampleRequest, model: str) -> None:
    """Write the picture with its parameters in the text chunk that the WebUI reads."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a name that ends in .png was expected")
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_png(picture, request, model))


def to_png(picture: Image.Image, request: SampleRequest, model: str) -> bytes:
    """The PNG file of a picture, its parameters inside."""
    info = PngInfo()
    info.add_text("parameters", infotext(request, picture, model))
    return png_of(picture, info)


def png_of(picture: Image.Image, info: PngInfo | None = None) -> bytes:
    """The PNG file of a picture."""
    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text[:40]!r}: expected a number") from error


def _quoted(value: str) -> str:
    """A value as the WebUI writes it: as JSON where it could be taken for several."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) or value != value.strip() else value


def _unquoted(value: str) -> str:
    try:
        return json.loads(value) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], columns: int = 3, side: int = 256) -> Image.Image:
    """Titled pictures in rows; small ones are enlarged to ``side`` pixels."""
    font = ImageFont.load_default()
    rows = -(-len(pictures) // columns)
    cell = side + MARGIN
    sheet = Image.new("RGB", (columns * cell + MARGIN, rows * (cell + TITLE) + MARGIN), (250, 250, 252))
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(pictures):
        x, y = MARGIN + number % columns * cell, MARGIN + number // columns * (cell + TITLE)
        draw.text((x, y + 4), title, fill=(30, 36, 50), font=font)
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        sheet.paste(
            picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS), (x, y + TITLE)
        )
    return sheet
