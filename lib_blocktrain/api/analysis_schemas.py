"""Schemas of the requests and answers about analyses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from lib_blocktrain.analysis import sampling_grid as limits
from lib_blocktrain.api.schemas import WEIGHTS, Body, list_field


class FeatureBody(Body):
    """One of these; none of them is the whole picture."""

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
    weights: str = Field("ALL", description=f"the block weights that it has: {WEIGHTS}", max_length=100_000)
    multiplier: float = Field(
        1.0, ge=-limits.MAX_STRENGTH, le=limits.MAX_STRENGTH, description="strength of the whole LoRA"
    )
    value: float = Field(0.0, ge=-limits.MAX_STRENGTH, le=limits.MAX_STRENGTH, description="what a block is lowered to")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class Asked(BaseModel):
    """Where the result will be."""

    job: str = Field(description="ask GET /analyse/{job} until its state is not running any more")


class Found(BaseModel):
    """The progress of an analysis, and its result."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much is done, 0 to 1")
    analyses: list[dict[str, Any]] = Field([], description="one a feature: figures by block, with their noise")
    canvas: str = Field("", description="what the feature's share of the picture means, as a sentence")
    sheets: dict[str, str] = Field({}, description="pictures of a rendered analysis by name: PNGs in base64")
    error: str = ""
    detail: str = Field("", description="why it failed")
