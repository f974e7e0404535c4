"""Schemas of the requests and answers, for pydantic 1 (AUTOMATIC1111) and 2 (Forge, standalone).

An unknown field is refused. What depends on the model or the host is checked where the work is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, Field

from lib_blocktrain.analysis import sampling_grid as limits

PYDANTIC_2 = int(pydantic.VERSION.split(".")[0]) >= 2


def list_field(default: Sequence[object], most: int, description: str | None = None) -> Any:
    """Return the field of a list of at most so many entries."""
    limit: dict[str, Any] = {"max_length" if PYDANTIC_2 else "max_items": most}
    return Field(list(default), description=description, **limit)


Architecture = Literal["sd1", "sd2", "sdxl"]

WEIGHTS = (
    "a preset's name, with changes or without, 25 or 26 values, a short form, ranges such as OUT=1,BASE=1, kohya's"
    " network_args, or JSON"
)

LORA_WEIGHTS = f"{WEIGHTS}; card: those that the LoRA recommends"


class Body(BaseModel):
    """The body of a request."""

    if PYDANTIC_2:
        model_config = {"extra": "forbid"}
    else:

        class Config:
            extra = "forbid"


# --- presets ------------------------------------------------------------------------------------------------------


class PresetItem(BaseModel):
    """A preset as it is listed."""

    name: str
    architectures: list[str]
    text: str = Field(description="the preset string")
    purpose: str
    grade: str = Field(description="A: a paper with code, C: what the community reports, -: no claim")
    source: str
    own: bool = Field(description="of the user's own file; the others come with the extension")


class PresetLine(BaseModel):
    """An error in a line of the user's file; lines count from 1."""

    line: int
    text: str
    message: str


class PresetList(BaseModel):
    """The presets for the requested architecture."""

    presets: list[PresetItem]
    problems: list[PresetLine] = Field(description="lines of the user's file that cannot be read")


class ParseBody(Body):
    """A text to read as block weights."""

    text: str = Field(description=WEIGHTS, max_length=100_000)
    architecture: Architecture
    seed: int | None = Field(None, description="from which R and U are drawn")
    x: float | None = Field(None, description="what X stands for")


class ParsedWeights(BaseModel):
    """Block weights that were read from a text."""

    architecture: str
    name: str | None = None
    form: str = Field(description="the form of the text")
    weights: dict[str, float] = Field(description="by block, with BASE and REST")
    changes: str = Field("", description="weights by kind of layer and over the steps, such as OUT03.attn2=0.5")
    notices: list[str]
    line: str = Field(description="the same as a canonical preset line")


class PresetBody(Body):
    """A preset to save in the user's file."""

    name: str = Field(max_length=1000)
    weights: str = Field(description=WEIGHTS, max_length=100_000)
    architecture: Architecture
    replace: bool = Field(False, description="replace an own preset of this name, or take the place of a shipped one")


class WriteWeightsBody(Body):
    """A prompt, and the block weights to write into its tags."""

    prompt: str = Field(max_length=100_000)
    weights: str = Field(
        description="a preset string for every LoRA of the prompt, or lines NAME: preset string", max_length=100_000
    )


class FixRandomBody(Body):
    """A prompt with R or U among its block weights, and the parameters of an image drawn from it."""

    prompt: str = Field(max_length=100_000)
    parameters: str = Field(description="the picture's, as the WebUI writes them", max_length=100_000)


class Prompt(BaseModel):
    """The prompt, changed in its tags alone."""

    prompt: str


class TagChangeBody(Body):
    """What to change of a tag; what is left out stays."""

    strength: float | None = Field(None, ge=-100, le=100)
    weights: str | None = Field(
        None, description="a preset string without a name before it; empty: none", max_length=20_000
    )
    values: dict[str, float] | None = Field(None, description="the weight of every block, instead of weights")
    first: int | None = Field(None, ge=1, le=999_999, description="the first step in which it acts")
    end: int | None = Field(None, ge=0, le=999_999, description="the first step in which it acts no more; 0: none")


class TagBody(Body):
    """A prompt, and where the cursor is in it."""

    prompt: str = Field(max_length=100_000)
    position: int = Field(ge=0, le=1_000_000, description="in UTF-16 units, as a browser counts")
    change: TagChangeBody | None = None


class TagAtCursor(BaseModel):
    """The tag of a LoRA that the cursor is in, after the change; its place is that before it."""

    start: int = Field(description="in UTF-16 units, as stop")
    stop: int
    text: str
    name: str
    strength: float
    fixed: str = Field(description="why the strength cannot be changed here, if it cannot")
    weights: str = Field(description="as written")
    preset: str = Field(description="the preset that they begin with, if it is one")
    values: dict[str, float] | None = Field(None, description="by block, with BASE; null if they cannot be read")
    first: int
    end: int = Field(description="0: none")
    architecture: str = Field(description="of the LoRA")
    presets: list[str]
    lacks: list[str] = Field(description="blocks in which the LoRA has no layers")
    problem: str = Field(description="why the weights cannot be read, if they cannot")
    notices: list[str]


class TagAnswer(BaseModel):
    """The tag at the cursor."""

    tag: TagAtCursor | None = Field(None, description="null where there is none")


class Done(BaseModel):
    """An answer without data."""

    done: str = Field(description="what was done, as a sentence")


# --- LoRAs, pictures ----------------------------------------------------------------------------------------------


class LoraItem(BaseModel):
    """A network file in one of the folders of LoRAs."""

    name: str = Field(description="as the other routes take it; with its folder, if it is in one")
    known: bool = Field(description="whether its header has been read; if not, what follows is empty")
    architecture: str
    algorithms: list[str]
    problem: str = Field(description="why it cannot be used, if it cannot")


class RecommendedWeights(BaseModel):
    """Block weights that a LoRA recommends, in its card or in the file."""

    text: str = Field(description="a preset string")
    source: str = Field(description="where they come from")
    file: str = Field(description="the name of the file that holds them")


class RecommendBody(Body):
    """Block weights for a LoRA's card."""

    name: str = Field(description="as GET /loras has it", max_length=1000)
    weights: str | None = Field(description=f"{WEIGHTS}; null removes those of the card", max_length=100_000)
    source: str = Field("", description="where they come from", max_length=1000)
    canvas: float | None = Field(
        None, gt=0, le=1, description="the feature's share of the canvas; null: that of the weights"
    )


class LoraContents(BaseModel):
    """What a network file contains."""

    architecture: str
    algorithms: list[str]
    rank: int | list[int] | None = None
    blocks: dict[str, int] = Field(description="number of modules by block")
    metadata: dict[str, str]
    unread: list[str] = Field(description="keys that belong to no known module")
    notices: list[str] = Field(description="what else a user should know")


class LoraCard(BaseModel):
    """What a user has written about a LoRA, in NAME.json beside it; empty where there is nothing."""

    activation: str = Field(description="its activation text")
    negative: str = Field(description="its negative text")
    description: str
    notes: str
    strength: float = Field(description="the preferred one, 0 for none")
    recommended: RecommendedWeights | None = Field(None, description="its block weights; the file's own if it has none")


class WeighedLora(Body):
    """A LoRA of an image, and its block weights."""

    name: str = Field(description="as GET /loras has it", max_length=1000)
    weights: str = Field("ALL", description=LORA_WEIGHTS, max_length=100_000)
    multiplier: float = Field(1.0, ge=-10, le=10, description="strength of the whole LoRA")
    x: float | None = Field(None, description="what X in the weights stands for")


class PreviewBody(Body):
    """An image to draw."""

    prompt: str = Field(max_length=100_000)
    negative: str = Field("", max_length=100_000)
    seed: int = Field(0, ge=-1, le=2**32 - 1, description="-1: a random one; R and U in weights are drawn from it too")
    steps: int = Field(20, ge=1, le=150)
    cfg: float = Field(5.0, ge=0, le=30)
    sampler: str | None = Field(None, description="the host's usual one unless given")
    width: int | None = Field(None, ge=64, le=2048, description="pixels, a multiple of 8; the model's own unless given")
    height: int | None = Field(None, ge=64, le=2048, description="as width")
    loras: list[WeighedLora] = list_field([], 16)
    answer: Literal["json", "png"] = Field("json", description="png: the file itself, its parameters inside")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class Picture(BaseModel):
    """An image that was drawn."""

    image: str = Field(description="a PNG in base64, its parameters inside")
    parameters: str = Field(description="prompt and settings as the WebUI writes them, with the block weights")
    seed: int
    size: list[int] = Field(description="width and height in pixels")
    model: str
    notices: list[str]


# --- analyses ---------------------------------------------------------------------------------------------------------


class FeatureBody(Body):
    """A feature by one of these; without any, the whole image."""

    word: str | None = Field(None, description="where this word of the prompt is", max_length=limits.MAX_WORD)
    box: list[float] | None = Field(None, description="left, top, right, bottom; 0 to 1, from top left")
    mask: str | None = Field(None, description="a picture in base64: where it is white")


class AnalyseBody(Body):
    """A request to analyse which blocks of a LoRA carry a feature."""

    lora: str = Field(description="as GET /loras has it", max_length=1000)
    method: Literal["exact", "fast", "one-only", "norms", "rendered"] = "exact"
    prompts: list[str] = list_field([], limits.MAX_PROMPTS, "needed by all methods but norms")
    negative: str = Field("", max_length=limits.MAX_TEXT)
    seeds: list[int] = list_field([0, 1, 2], limits.MAX_SEEDS)
    cfg: float = Field(limits.GUIDANCE, ge=0, le=limits.MAX_GUIDANCE)
    width: int | None = Field(
        None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="pixels, in steps of 8; the model's own unless given"
    )
    height: int | None = Field(None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="as width")
    features: list[FeatureBody] = list_field([], 2, "one, or two to compare; none: the whole picture")
    weights: str = Field("ALL", description=f"the block weights that it has: {LORA_WEIGHTS}", max_length=100_000)
    multiplier: float = Field(
        1.0, ge=-limits.MAX_STRENGTH, le=limits.MAX_STRENGTH, description="strength of the whole LoRA"
    )
    value: float = Field(0.0, ge=-limits.MAX_STRENGTH, le=limits.MAX_STRENGTH, description="what a block is lowered to")
    pairs: bool = Field(False, description="with exact: also the pairs of blocks that replace or need each other")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class SolveBody(Body):
    """A request to search for the block weights that keep one feature of a LoRA and drop another."""

    lora: str = Field(description="as GET /loras has it", max_length=1000)
    prompts: list[str] = list_field([], limits.MAX_PROMPTS, "at least one")
    negative: str = Field("", max_length=limits.MAX_TEXT)
    seeds: list[int] = list_field(list(range(20)), limits.MAX_SEEDS)
    cfg: float = Field(limits.GUIDANCE, ge=0, le=limits.MAX_GUIDANCE)
    width: int | None = Field(None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="pixels, in steps of 8")
    height: int | None = Field(None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="as width")
    keep: FeatureBody = Field(description="a word, a box or a mask")
    drop: FeatureBody | None = Field(None, description="as keep; everything else unless given")
    kind: Literal["free", "sparse", "on-off"] = Field(
        "free", description="weights from -0.5 to 1.5; few of them; 0 or 1"
    )
    budget: int = Field(2040, ge=1, le=1_000_000, description="U-Net evaluations at most")
    weights: str = Field("ALL", description=f"where the search begins: {WEIGHTS}", max_length=100_000)
    multiplier: float = Field(
        1.0, ge=-limits.MAX_STRENGTH, le=limits.MAX_STRENGTH, description="strength of the whole LoRA"
    )
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class CollideBody(Body):
    """A request to compare two LoRAs block by block: their files, or with a prompt their effects on the model."""

    first: str = Field(description="as GET /loras has it", max_length=1000)
    second: str = Field(description="another one, for the same architecture", max_length=1000)
    prompts: list[str] = list_field([], limits.MAX_PROMPTS, "ask for what both do; none: the files alone")
    negative: str = Field("", max_length=limits.MAX_TEXT)
    seeds: list[int] = list_field([0, 1, 2], limits.MAX_SEEDS)
    cfg: float = Field(limits.GUIDANCE, ge=0, le=limits.MAX_GUIDANCE)
    width: int | None = Field(None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="pixels, in steps of 8")
    height: int | None = Field(None, ge=limits.MIN_SIDE, le=limits.MAX_SIDE, description="as width")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class Asked(BaseModel):
    """Where the result will be."""

    job: str = Field(
        description="ask GET /analyse/{job}, /solve/{job}, /collide/{job} or /sets/{set}/jobs/{job} until it has ended"
    )


class Found(BaseModel):
    """The progress of an analysis, and its result."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much is done, 0 to 1")
    analyses: list[dict[str, Any]] = Field([], description="one a feature: figures by block, with their noise")
    canvas: str = Field("", description="what the feature's share of the picture means, as a sentence")
    sheets: dict[str, str] = Field({}, description="pictures of a rendered analysis by name: PNGs in base64")
    error: str = ""
    detail: str = Field("", description="why it failed")


class SolvedFound(BaseModel):
    """The progress of a search for weights, and its answer."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much of the budget is spent, 0 to 1")
    solved: dict[str, Any] | None = Field(None, description="the front of weights, what they keep and leave, the cost")
    pictures: list[str] = Field([], description="a picture of each place of the front: PNGs in base64")
    error: str = ""
    detail: str = Field("", description="why it failed")


class CollidedFound(BaseModel):
    """The progress of a comparison of two LoRAs, and its result."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much is done, 0 to 1")
    collision: dict[str, Any] | None = Field(
        None, description="what each block is to both, and weights that leave it to the one that needs it more"
    )
    error: str = ""
    detail: str = Field("", description="why it failed")


# --- progress ----------------------------------------------------------------------------------------------------


class Progress(BaseModel):
    """What the model is used for now."""

    busy: bool
    what: str = Field("", description="preview, analysis, probe, bake or training")
    text: str = ""
    job: str = Field("", description="the run's name, or the job's id")
    share: float | None = Field(None, description="0 to 1")


def values_of(model: BaseModel, *, exclude_unset: bool = False) -> dict[str, Any]:
    return model.model_dump(exclude_unset=exclude_unset) if PYDANTIC_2 else model.dict(exclude_unset=exclude_unset)
