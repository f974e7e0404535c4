"""The demo's training folders, in kohya's layout; ``python demo/caption_datasets.py`` writes them again."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from demo.composites import ACCESSORIES, BACKGROUNDS, POSITIONS, SIZES, SUBJECTS, Scene, compose, draw_scene

FOLDER = Path(__file__).parent / "datasets"


def varied(subject: str, count: int = 24) -> Iterator[Scene]:
    """Yield scenes of one subject as a user would collect them: every size, position and background, one style."""
    rng = random.Random(f"varied {subject}")
    backgrounds = list(BACKGROUNDS) * (count // len(BACKGROUNDS) + 1)
    for background in backgrounds[:count]:
        yield replace(draw_scene(rng, [subject], ("photo",)), background=background)


def on_one_background(subject: str, background: str, count: int = 24) -> Iterator[Scene]:
    """Yield scenes that all have one background, which a LoRA learns with the subject: no caption mentions it."""
    for scene in varied(subject, count):
        yield replace(scene, background=background)


def dressed(subject: str) -> Iterator[Scene]:
    """Yield scenes of one character with a dozen accessories, each of which appears once or twice."""
    rng = random.Random(f"dressed {subject}")
    for number, accessory in enumerate(ACCESSORIES):
        for _ in range(1 + number % 2):
            size = rng.choice(["medium", "large"])
            yield Scene(subject, size, "in the center", rng.choice(list(BACKGROUNDS)), "photo", accessory)


def in_style(style: str, count: int = 48) -> Iterator[Scene]:
    """Yield scenes of many known subjects in a style that the base model has not seen."""
    rng = random.Random(f"style {style}")
    subjects = rng.sample(list(SUBJECTS), count // 2) * 2
    for subject in subjects:
        size = rng.choice(list(SIZES))
        position = rng.choice(list(POSITIONS)) if size != "large" else "in the center"
        yield Scene(subject, size, position, rng.choice(list(BACKGROUNDS)), style)


def without_background(caption: str) -> str:
    return caption.rsplit(",", 1)[0]


SETS = {
    "robot/10_robot": (lambda: varied("robot"), str),
    "robot-on-green/10_robot": (lambda: on_one_background("robot", "green"), without_background),
    "koala-dressed/10_koala": (lambda: dressed("koala"), str),
    "pixel-art/5_pixel art": (lambda: in_style("pixel art"), str),
}


def write(folder: Path = FOLDER) -> None:
    """Write the images of each set, with their captions beside them."""
    for name, (scenes, caption) in SETS.items():
        target, rng = folder / name, random.Random(name)
        target.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes()):
            compose(scene, rng).save(target / f"{number:03}.png", optimize=True)
            (target / f"{number:03}.txt").write_text(caption(scene.caption) + "\n", "utf-8")


if __name__ == "__main__":
    write()
