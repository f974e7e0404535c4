"""PNG files with generation parameters, and grids of images."""

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

MAX_LENGTH = 50_000  # characters of a picture's parameters
MARGIN, TITLE = 8, 22  # pixels
_NEGATIVE = "Negative prompt: "
_PAIR = re.compile(r'\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')  # as in the WebUI's infotext_utils


@dataclass(frozen=True)
class SavedLora:
    """A LoRA in a picture's parameters; its weights are a preset string."""

    name: str
    weights: str
    multiplier: float


@dataclass(frozen=True)
class Parameters:
    """The generation parameters of a picture; ``values`` are its `Name: value` pairs as text."""

    prompt: str
    negative: str
    values: Mapping[str, str]

    @property
    def loras(self) -> tuple[SavedLora, ...]:
        """The LoRAs recorded by this extension, without those of the prompt's tags."""
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


def infotext(request: SampleRequest, image: Image.Image, model: str) -> str:
    """Write the request as the WebUI does: prompt, negative prompt, then ``Name: value`` pairs."""
    pairs = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "CFG scale": f"{request.cfg:g}",
        "Seed": request.seed,
        "Size": f"{image.width}x{image.height}",
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
    """Read the parameters written by `infotext` or the WebUI; raise ValueError if the last line has no pairs."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"parameters of {len(text)} characters: expected up to {MAX_LENGTH}")
    *lines, last = text.split("\n")
    values = {found[1]: _unquoted(found[2]) for found in _pairs(last)}
    if len(values) < 3:  # as in the WebUI, since a prompt may contain a colon
        raise ValueError(
            f"no generation parameters in {last[:80]!r}: expected text such as 'Steps: 20, Sampler: DDIM, ...'"
        )
    start = next((n for n, line in enumerate(lines) if line.startswith(_NEGATIVE.rstrip())), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(_NEGATIVE.rstrip()).removeprefix(" ")
    return Parameters("\n".join(lines[:start]), negative, values)


def _pairs(line: str) -> Iterator[re.Match[str]]:
    """Yield the `Name: value` pairs of a line, in linear time; other text is skipped up to the next comma."""
    position = 0
    while position < len(line):
        found = _PAIR.match(line, position)
        if found:
            yield found
        position = found.end() if found else (line.find(",", position) + 1 or len(line))


def read_png(path: Path) -> Parameters:
    """Return the parameters in a PNG; raise ValueError for a file without any, or that is not a PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get("parameters")
    except (UnidentifiedImageError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"{path.name} is not a PNG: expected a picture saved with its parameters") from error
    except (ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"{path.name} has no generation parameters: image editors remove them")
    return read_infotext(text)


def save_png(image: Image.Image, path: Path, request: SampleRequest, model: str) -> None:
    """Save the image with its parameters in the text chunk that the WebUI reads."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a name that ends in .png was expected")
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_png(image, request, model))


def to_png(image: Image.Image, request: SampleRequest, model: str) -> bytes:
    """Return the bytes of a PNG of the image with its parameters."""
    info = PngInfo()
    info.add_text("parameters", infotext(request, image, model))
    return png_of(image, info)


def png_of(image: Image.Image, info: PngInfo | None = None) -> bytes:
    """Return the bytes of a PNG of the image."""
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text[:40]!r}: expected a number") from error


def _quoted(value: str) -> str:
    """Write a value as the WebUI does: as JSON if it contains a separator."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) or value != value.strip() else value


def _unquoted(value: str) -> str:
    try:
        return json.loads(value) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def image_grid(pictures: Sequence[tuple[str, Image.Image]], columns: int = 3, side: int = 256) -> Image.Image:
    """Put titled pictures in rows, scaled to ``side`` pixels."""
    font = ImageFont.load_default()
    rows = -(-len(pictures) // columns)
    cell = side + MARGIN
    sheet = Image.new("RGB", (columns * cell + MARGIN, rows * (cell + TITLE) + MARGIN), (250, 250, 252))
    draw = ImageDraw.Draw(sheet)
    for number, (title, image) in enumerate(pictures):
        x, y = MARGIN + number % columns * cell, MARGIN + number // columns * (cell + TITLE)
        draw.text((x, y + 4), title, fill=(30, 36, 50), font=font)
        scale = side / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        sheet.paste(
            image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS), (x, y + TITLE)
        )
    return sheet
