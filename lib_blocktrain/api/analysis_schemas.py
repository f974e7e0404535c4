"""What is sent and answered about analyses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from lib_blocktrain.api.schemas import WEIGHTS, Body, up_to


class FeatureBody(Body):
    """One of these; none of them is the whole picture."""

    word: str | None = Field(None, description="where this word of the prompt is", max_length=1000)
    box: list[float] | None = Field(None, description="left, top, right, bottom; 0 to 1, from top left")
    mask: str | None = Field(None, description="a picture in base64: where it is white")


class AnalyseBody(Body):
    """A question to a LoRA: which blocks carry a feature."""

    lora: str = Field(description="as GET /loras has it", max_length=1000)
    method: Literal["exact", "fast", "one-only", "norms", "rendered"] = "exact"
    prompts: list[str] = Field([], description="needed by all methods but norms", **up_to(16))
    negative: str = Field("", max_length=100_000)
    seeds: list[int] = Field([0, 1, 2], **up_to(64))
    cfg: float = Field(5.0, ge=0, le=30)
    width: int | None = Field(None, ge=64, le=2048, description="pixels, a multiple of 8; the model's own unless given")
    height: int | None = Field(None, ge=64, le=2048, description="as width")
    features: list[FeatureBody] = Field([], description="one, or two to compare; none: the whole picture", **up_to(2))
    weights: str = Field("ALL", description=f"the block weights that it has: {WEIGHTS}", max_length=100_000)
    multiplier: float = Field(1.0, ge=-10, le=10, description="strength of the whole LoRA")
    value: float = Field(0.0, ge=-10, le=10, description="what a block is lowered to")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class Asked(BaseModel):
    """Where to ask for what is found."""

    job: str = Field(description="ask GET /analyse/{job} until its state is not running any more")


class Found(BaseModel):
    """How far an analysis is, and what it found."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much is done, 0 to 1")
    analyses: list[dict[str, Any]] = Field([], description="one a feature: figures by block, with their noise")
    canvas: str = Field("", description="what the feature's share of the picture means, as a sentence")
    sheets: dict[str, str] = Field({}, description="pictures of a rendered analysis by name: PNGs in base64")
    error: str = ""
    detail: str = Field("", description="why it failed")
