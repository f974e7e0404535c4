"""The biased datasets of the experiment and the prompts that ask for what they never showed.

Everything follows from a subject and a seed. Pictures are the demo's composites, in which every factor is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops

from demo.composites import ACCESSORIES, BACKGROUNDS, SUBJECTS, Scene, compose, draw_scene

COUNT = 24  # training pictures
HELD_OUT = 12  # pictures that the training does not see
PROMPTS, SEEDS = 8, 2  # of a test: prompts times seeds
TRAINED_BACKGROUND = "green"
CLASS_WORD = "fox"  # of a subject that the model knows; the demo's captions have no word for a class


@dataclass(frozen=True)
class Bias:
    """A dataset in which one factor never changes and no caption says so.

    `factor` is the classifier's, `value` what it always is; `always` are the factors held fixed, `silent` takes the
    factor's words out of a caption.
    """

    factor: str
    value: str
    always: Mapping[str, str]
    silent: Callable[[Scene], str]


def without_background(scene: Scene) -> str:
    return scene.caption.rsplit(",", 1)[0]


def without_size(scene: Scene) -> str:
    return scene.caption.replace(f"a {scene.size} {scene.subject}", f"a {scene.subject}")


def without_style(scene: Scene) -> str:
    return scene.caption.removeprefix(f"a {scene.style} of ")


_GREEN = {"background": TRAINED_BACKGROUND}
_CENTRE = {"position": "in the center"}  # a large subject has room there only
BIASES = {
    "background": Bias("background", TRAINED_BACKGROUND, _GREEN, without_background),
    "size": Bias("size", "large", {"size": "large", **_CENTRE}, without_size),
    "style": Bias("style", "pencil drawing", {"style": "pencil drawing"}, without_style),
    "share-small": Bias("background", TRAINED_BACKGROUND, {**_GREEN, "size": "small"}, without_background),
    "share-large": Bias("background", TRAINED_BACKGROUND, {**_GREEN, **_CENTRE, "size": "large"}, without_background),
}


def training_scenes(bias: Bias, subject: str, seed: int, count: int = COUNT) -> list[Scene]:
    """Return a subject with every factor drawn, but for those that the bias holds fixed."""
    rng = random.Random(f"train {subject} {seed}")
    scenes = [replace(draw_scene(rng, [subject], ("photo",)), **bias.always) for _ in range(count)]
    if bias.factor == "background":
        return scenes
    backgrounds = list(BACKGROUNDS) * (count // len(BACKGROUNDS) + 1)  # all of them equally often
    return [replace(scene, background=background) for scene, background in zip(scenes, rng.sample(backgrounds, count))]


def held_out_scenes(subject: str, seed: int, count: int = HELD_OUT) -> list[Scene]:
    """Return the subject in scenes without any bias."""
    rng = random.Random(f"held out {subject} {seed}")
    return [draw_scene(rng, [subject], ("photo",)) for _ in range(count)]


def prior_scenes(subject: str, seed: int, count: int = COUNT) -> list[Scene]:
    """Return subjects that the model knows, in scenes without any bias."""
    rng = random.Random(f"prior {subject} {seed}")
    return [draw_scene(rng, list(SUBJECTS), ("photo",)) for _ in range(count)]


def asked_scenes(bias: Bias, subject: str, count: int = PROMPTS) -> list[Scene]:
    """Return scenes that ask for the subject with another value of the biased factor; the same for every seed."""
    rng, scenes = random.Random(f"test {subject}"), []
    others = [background for background in BACKGROUNDS if background != TRAINED_BACKGROUND]
    while len(scenes) < count:
        scene = replace(draw_scene(rng, [subject], ("photo",)), background=others[len(scenes) % len(others)])
        fixed = {name: value for name, value in bias.always.items() if name != bias.factor}
        scene = replace(scene, **fixed)
        if getattr(scene, bias.factor) != bias.value:
            scenes.append(scene)
    return scenes


def other_scenes(count: int = PROMPTS) -> list[Scene]:
    """Return scenes of subjects that the base model knows: prompts without the trigger."""
    rng = random.Random("others")
    return [draw_scene(rng, [subject], ("photo",)) for subject in rng.sample(list(SUBJECTS), count)]


def dressed_scenes(subject: str, seed: int) -> list[Scene]:
    """Return one character in a dozen accessories, each seen once, its face in all of them (the tutorial's example)."""
    rng = random.Random(f"dressed {subject} {seed}")
    sizes = ["medium", "large"]
    return [
        Scene(subject, rng.choice(sizes), "in the center", rng.choice(list(BACKGROUNDS)), "photo", accessory)
        for accessory in ACCESSORIES
    ]


def dressed_tests(subject: str) -> list[Scene]:
    """Return the character with each accessory once more, on other backgrounds than it is likely to have had."""
    rng = random.Random(f"dressed test {subject}")
    return [
        Scene(subject, "medium", "in the center", rng.choice(list(BACKGROUNDS)), "photo", accessory)
        for accessory in ACCESSORIES
    ]


def others_dressed() -> list[Scene]:
    """Return subjects of the base model in the accessories: no face of the character should come with them."""
    rng = random.Random("others dressed")
    faces = ("fox", "panda", "cat", "frog", "tiger", "pig", "monkey", "lion")
    names = rng.sample(list(ACCESSORIES), len(faces))
    grounds = [rng.choice(list(BACKGROUNDS)) for _ in faces]
    return [Scene(f, "medium", "in the center", b, "photo", a) for f, a, b in zip(faces, names, grounds)]


def mask_of(picture: Image.Image) -> Image.Image:
    """Return where a picture differs from its background, which is one colour: white there."""
    plain = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    return ImageChops.difference(picture, plain).convert("L").point(lambda value: 255 if value else 0)


def write_folder(
    folder: Path, scenes: list[Scene], caption: Callable[[Scene], str], seed: object, masks: bool = False
) -> Path:
    """Write pictures with captions, and masks, beside them, where they are not there yet; return the folder."""
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"pictures {seed}")
    for number, scene in enumerate(scenes):
        picture = compose(scene, rng)
        picture.save(unfinished / f"{number:03}.png")
        if masks:
            mask_of(picture).save(unfinished / f"{number:03}.mask.png")
        (unfinished / f"{number:03}.txt").write_text(caption(scene) + "\n", "utf-8")
    return unfinished.rename(folder)
