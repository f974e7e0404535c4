"""Pictures on disk: PNGs that carry their parameters, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lib_blocktrain.files import written

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import SampleRequest

MARGIN, TITLE = 8, 22  # pixels


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
        line = placement.weights.to_line(placement.network.name)
        pairs[f"Block weights {number}"] = f'"{line} | arch={placement.weights.architecture}"'
        pairs[f"Multiplier {number}"] = f"{placement.multiplier:g}"
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in pairs.items())])


def save_png(picture: Image.Image, path: Path, request: SampleRequest, model: str) -> None:
    """Write the picture with its parameters in the text chunk that the WebUI reads."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a name that ends in .png was expected")
    info = PngInfo()
    info.add_text("parameters", infotext(request, picture, model))
    with written(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)


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
        sheet.paste(picture.resize(size, Image.NEAREST if scale >= 2 else Image.LANCZOS), (x, y + TITLE))
    return sheet
