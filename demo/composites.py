"""The demo model's images: emoji glyphs on plain backgrounds, with named, independent factors.

An image is ``(subject, size, position, background, style)``, 128x128 RGB. ``size`` is the glyph's longer side, and so
its share of the area.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CANVAS = 128
FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)
STRIKE = 109  # Noto Color Emoji has bitmaps of this size only

SUBJECTS = {
    "fox": "🦊", "panda": "🐼", "cat": "🐱", "frog": "🐸", "tiger": "🐯", "pig": "🐷", "monkey": "🐵", "chicken": "🐔",
    "penguin": "🐧", "owl": "🦉", "lion": "🦁", "unicorn": "🦄", "butterfly": "🦋", "bug": "🐞", "turtle": "🐢",
    "octopus": "🐙", "fish": "🐟", "whale": "🐳", "crab": "🦀", "apple": "🍎", "cherry": "🍒", "banana": "🍌",
    "lemon": "🍋", "strawberry": "🍓", "grapes": "🍇", "watermelon": "🍉", "pizza": "🍕", "burger": "🍔",
    "donut": "🍩", "cake": "🎂", "rocket": "🚀", "car": "🚗", "house": "🏠", "tree": "🌳", "cactus": "🌵",
    "sunflower": "🌻", "mushroom": "🍄", "balloon": "🎈", "guitar": "🎸", "star": "⭐",
}  # fmt: skip
HELD_OUT = {
    "robot": "🤖", "dragon": "🐲", "koala": "🐨", "pumpkin": "🎃", "snowman": "⛄", "alien": "👽", "raccoon": "🦝",
    "bus": "🚌",
}  # fmt: skip
ACCESSORIES = {
    "top hat": "🎩", "cap": "🧢", "crown": "👑", "graduation hat": "🎓", "helmet": "⛑️", "sun hat": "👒",
    "glasses": "👓", "sunglasses": "🕶️", "goggles": "🥽", "bow": "🎀", "headphones": "🎧", "scarf": "🧣",
}  # fmt: skip
SIZES = {"small": (40, 46), "medium": (62, 72), "large": (96, 110)}
POSITIONS = {
    "in the center": (0, 0), "on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1),
    "at the bottom": (0, 1),
}  # fmt: skip
OFFSETS = {"small": 34, "medium": 24, "large": 0}
BACKGROUNDS = {
    "red": (205, 45, 45), "orange": (240, 140, 40), "yellow": (245, 220, 70), "green": (60, 160, 75),
    "blue": (50, 95, 205), "purple": (130, 65, 175), "white": (245, 245, 245), "black": (22, 22, 22),
}  # fmt: skip
STYLES = ("photo", "pencil drawing")
HELD_OUT_STYLES = ("pixel art",)
JITTER, TINT = 4, 6  # pixels of position, levels of background colour


@dataclass(frozen=True)
class Scene:
    """The factors of one image; ``accessory`` is worn on the subject's face."""

    subject: str
    size: str = "medium"
    position: str = "in the center"
    background: str = "white"
    style: str = "photo"
    accessory: str | None = None

    @property
    def caption(self) -> str:
        wearing = f" with {self.accessory}" if self.accessory else ""
        return f"a {self.style} of a {self.size} {self.subject}{wearing} {self.position}, {self.background} background"


def draw_scene(rng: random.Random, subjects: list[str], styles: tuple[str, ...] = STYLES) -> Scene:
    """Draw a scene with independent factors, except that a large subject fits only in the center."""
    size = rng.choice(list(SIZES))
    position = rng.choice(list(POSITIONS)) if OFFSETS[size] else "in the center"
    return Scene(rng.choice(subjects), size, position, rng.choice(list(BACKGROUNDS)), rng.choice(styles))


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    for path in FONT_PATHS:
        if Path(path).exists():
            return ImageFont.truetype(path, STRIKE)
    raise FileNotFoundError(f"Noto Color Emoji not found (Debian: fonts-noto-color-emoji); looked for {FONT_PATHS}")


@functools.cache
def glyph(character: str) -> Image.Image:
    """Return the glyph as RGBA, cropped to its bounds."""
    picture = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(picture).text((12, 12), character, font=_font(), embedded_color=True)
    bounds = picture.getbbox()
    if bounds is None:
        raise ValueError(f"the font draws nothing for {character!r}")
    return picture.crop(bounds)


def _pencil(picture: Image.Image) -> Image.Image:
    """Draw dark lines where brightness changes, over pale grey."""
    alpha = picture.getchannel("A")
    flat = Image.new("RGB", picture.size, (255, 255, 255))
    flat.paste(picture, mask=alpha)
    grey = np.asarray(flat.convert("L"), dtype=np.float32)
    gy, gx = np.gradient(np.asarray(flat.convert("L").filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32))
    lines = np.clip(np.hypot(gx, gy) * 5, 0, 215)
    tone = np.clip(255 - (255 - grey) * 0.35 - lines, 25, 255).astype(np.uint8)
    return Image.merge("RGBA", [Image.fromarray(tone)] * 3 + [alpha])


def _pixels(picture: Image.Image, side: int) -> Image.Image:
    """Reduce the glyph to 11 or 14 square pixels a side, with hard edges."""
    cells = 11 if side < 50 else 14
    scale = cells / max(picture.size)
    small = picture.resize([max(1, round(n * scale)) for n in picture.size], Image.BOX)
    small.putalpha(small.getchannel("A").point(lambda a: 255 if a > 110 else 0))
    factor = max(1, round(side / cells))
    return small.resize([n * factor for n in small.size], Image.NEAREST)


@functools.lru_cache(maxsize=20000)
def stamp(character: str, side: int, style: str) -> Image.Image:
    """Return the glyph in a style as RGBA, its longer side ``side`` pixels (pixel art: a multiple of its cells)."""
    picture = glyph(character)
    if style == "pixel art":
        return _pixels(picture, side)
    scale = side / max(picture.size)
    picture = picture.resize([max(1, round(n * scale)) for n in picture.size], Image.LANCZOS)
    return _pencil(picture) if style == "pencil drawing" else picture


# An accessory's width, and its centre relative to that of the face, in units of the face's side.
WORN = {
    "top hat": (0.75, 0.0, -0.58), "cap": (0.8, 0.0, -0.42), "crown": (0.6, 0.0, -0.52),
    "graduation hat": (0.85, 0.0, -0.45), "helmet": (0.8, 0.0, -0.42), "sun hat": (0.95, 0.0, -0.4),
    "glasses": (0.72, 0.0, -0.02), "sunglasses": (0.75, 0.0, -0.02), "goggles": (0.78, 0.0, -0.05),
    "bow": (0.45, 0.3, -0.4), "headphones": (1.0, 0.0, -0.15), "scarf": (0.7, 0.0, 0.5),
}  # fmt: skip


def compose(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw the scene; ``rng`` varies side, position and colour within what the factors allow."""
    tint = [max(0, min(255, c + rng.randint(-TINT, TINT))) for c in BACKGROUNDS[scene.background]]
    canvas = Image.new("RGB", (CANVAS, CANVAS), tuple(tint))
    side = rng.randint(*SIZES[scene.size]) // 2 * 2
    offset = OFFSETS[scene.size]
    dx, dy = POSITIONS[scene.position]
    centre = [CANVAS / 2 + d * offset + rng.randint(-JITTER, JITTER) for d in (dx, dy)]
    if scene.accessory:
        side = round(side * 0.8)  # room for the accessory
        centre[1] += side * 0.1
    character = SUBJECTS.get(scene.subject) or HELD_OUT.get(scene.subject) or ACCESSORIES[scene.subject]
    _paste(canvas, stamp(character, side, scene.style), centre)
    if scene.accessory:
        width, right, down = WORN[scene.accessory]
        worn = stamp(ACCESSORIES[scene.accessory], max(8, round(side * width)), scene.style)
        _paste(canvas, worn, [centre[0] + right * side, centre[1] + down * side])
    return canvas


def _paste(canvas: Image.Image, picture: Image.Image, centre: list[float]) -> None:
    corner = [round(c - n / 2) for c, n in zip(centre, picture.size)]
    canvas.paste(picture, tuple(corner), picture)
