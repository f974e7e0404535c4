"""What is sent and answered about runs. Configuration and status are typed by their own dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import BaseModel, Field

from lib_blocktrain.api.schemas import PYDANTIC_2, WEIGHTS, Body
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import key_of
from lib_blocktrain.training.status import Status


@functools.cache  # pydantic 1 cannot describe two models of one name
def _model(cls: type, base: type[BaseModel] = Body) -> type[BaseModel]:
    """A pydantic model of a dataclass; what is not sent stays unset, and has the dataclass's default."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = field.default if field.default is not dataclasses.MISSING else None
        about = field.metadata.get("about")
        fields[key_of(field)] = (_hint(hints[field.name]), Field(... if required else default, description=about))
    return pydantic.create_model(cls.__name__, __base__=base, __module__=__name__, **fields)


def _hint(hint: Any) -> Any:
    """A dataclass's type hint as JSON has it."""
    if dataclasses.is_dataclass(hint):
        return _model(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return list[_hint(arguments[0])]
    if origin in (Mapping, typing.get_origin(Mapping[str, int])):
        return dict[str, arguments[1]]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_hint(argument) for argument in arguments)]  # noqa: UP007 - made of a list
    return hint


ConfigBody = _model(RunConfig)


class RunBody(Body):
    """A run to put at the end of the queue."""

    config: ConfigBody = Field(description="what run.json says; the model is the one that is loaded")


class StopBody(Body):
    """How a run is to end."""

    save: bool = Field(True, description="false: what was saved last stays")


class WeightsBody(Body):
    """Block weights for the run that is being trained."""

    weights: str = Field(description=WEIGHTS, max_length=100_000)


class RunState(_model(Status, BaseModel)):
    """How a run stands; `seconds_left` is None while nobody can tell."""

    seconds_left: float | None = None


class RunList(BaseModel):
    """All runs, and the queue."""

    runs: list[RunState]
    queue: list[str] = Field(description="names of those that wait, in order")
    held: bool = Field(description="whether the queue waits until a run is resumed")


class RunStatus(BaseModel):
    """How a run stands, with rows of its metrics."""

    run: RunState
    metrics: list[dict[str, Any]] = Field(description="rows of later steps than asked for, the oldest first")
    more: bool = Field(description="whether there are more rows: ask again from the last one's step")


class FileItem(BaseModel):
    """A file that a run wrote, by its path in the run's folder."""

    name: str
    size: int = Field(description="bytes")


def sent(body: RunBody) -> dict[str, Any]:
    """The configuration with what was sent and nothing else, for `config_json.read`."""
    return body.config.model_dump(exclude_unset=True) if PYDANTIC_2 else body.config.dict(exclude_unset=True)
