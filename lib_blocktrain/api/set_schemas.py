"""Schemas of the routes under ``/sets``: what is asked of sets of pictures, and what is answered."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from lib_blocktrain.api.schemas import Body

MAX_KEY = 1000  # characters


class NewSetBody(Body):
    """A set to make, by `name`, or a folder or `.toml` of the server to open."""

    name: str | None = Field(None, max_length=MAX_KEY)
    repeats: int = Field(10, ge=1, le=10_000, description="how often an epoch has each picture")
    open: str | None = Field(None, description="a path on the server's disk", max_length=4000)


class RepeatsBody(Body):
    """New repeats for the folders of a set, or for one of them."""

    repeats: int = Field(ge=1, le=10_000)
    label: str | None = Field(None, max_length=MAX_KEY)


class PictureBody(Body):
    """A picture of a set."""

    picture: str = Field(description="as the listing has it", max_length=MAX_KEY)


class CaptionBody(PictureBody):
    """A caption to write."""

    text: str = Field(max_length=100_000)
    stamp: str = Field(description="of the caption that was read; empty for none", max_length=100)


class ChangeBody(Body):
    """Something to do to many captions at once."""

    operation: dict[str, Any] = Field(description='such as {"op": "add tag", "tag": "smiling"}')
    pictures: list[str] | None = Field(None, description="all unless given")
    stamps: dict[str, str] | None = Field(None, description="stamps by picture, as they were read")
    preview: bool = Field(False, description="say what would change, and write nothing")


class MaskBody(PictureBody):
    """A mask to write, or to remove."""

    strokes: str | None = Field(None, description="brush strokes as JSON: [[radius, x, y, x, y, ...], ...], 0 to 1")
    png: str | None = Field(None, description="a PNG in base64, white where the loss counts")
    mode: Literal["replace", "add", "erase"] = "replace"
    remove: bool = False


class FocusBody(PictureBody):
    """Where the crop of a picture is centred."""

    focus: list[float] | None = Field(None, description="x and y, 0 to 1 of the upright picture; none: the middle")


class WordMaskBody(PictureBody):
    """A word to look for in a picture."""

    word: str = Field(description="or several, such as red hat", min_length=1, max_length=200)
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class ProbeSetBody(Body):
    """How a set is probed."""

    pictures: int = Field(16, ge=2, le=64, description="at most so many of the set")
    wait: float = Field(60, ge=0, le=600, description="seconds to wait for the model before the answer is busy")


class SetJob(BaseModel):
    """The progress of a job, and its result."""

    state: Literal["running", "done", "failed"]
    share: float | None = Field(None, description="how much is done, 0 to 1")
    result: dict[str, Any] | None = Field(
        None,
        description="of find-mask: png in base64, share of the picture; of probe: blocks, weights, pictures",
    )
    error: str = ""
    detail: str = Field("", description="why it failed")


class SetItem(BaseModel):
    """A set of pictures."""

    set: str = Field(description="as the other routes take it")
    name: str
    folder: str
    kind: Literal["own", "folder", "toml"]
    pictures: int
    repeats: int | None = Field(None, description="none if its folders differ")
    cover: str | None = Field(None, description="its first picture")
    notices: list[str] = Field(description="what a .toml has that is not understood")
    problem: str = Field(description="why it cannot be read, if it cannot")


class CaptionText(BaseModel):
    """The caption of a picture."""

    picture: str
    caption: str | None = Field(None, description="none: there is no file")
    stamp: str
    tokens: int | None = Field(None, description="of its first line, which is trained on")
    chunks: list[int] = Field(description="where in that line each chunk of 75 tokens begins")


class EditItem(BaseModel):
    """A picture's caption before and after; none for a mask or a crop."""

    picture: str
    before: str | None = None
    after: str | None = None
    stamp: str
    new_stamp: str


class ChangeItem(BaseModel):
    """What was changed, or would be."""

    id: str = Field(description="empty if nothing was written")
    title: str
    edits: list[EditItem]
    unchanged: int
    problems: list[str]


class PastChange(BaseModel):
    """A change that can be taken back."""

    id: str
    title: str
    time: float = Field(description="seconds since 1970")
    pictures: int


class AddedFiles(BaseModel):
    """The files that were added, and those that were refused, with the reasons."""

    added: list[str]
    refused: list[list[str]]
    notices: list[str] = Field(description="where the name of a dropped folder was not followed")
