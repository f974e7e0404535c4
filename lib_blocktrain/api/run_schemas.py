"""Schemas of the requests and answers about runs. Configuration and status are made from their dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import BaseModel, Field

from lib_blocktrain.api.schemas import WEIGHTS, Body, values_of
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import key_of
from lib_blocktrain.training.status import Status


@functools.cache  # pydantic 1 cannot describe two models of one name
def _model_of(cls: type, base: type[BaseModel] = Body) -> type[BaseModel]:
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
    """The type of a dataclass's field in JSON."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _model_of(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return types.GenericAlias(list, (_hint(arguments[0]),))
    if origin is Mapping or origin is typing.get_origin(Mapping[str, int]):
        return types.GenericAlias(dict, (str, arguments[1]))
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_hint(argument) for argument in arguments)]  # noqa: UP007 - made of a list
    return hint


if TYPE_CHECKING:  # a model that is made at run time is no type to a type checker

    class ConfigBody(Body): ...

    class StatusBody(BaseModel): ...

else:
    ConfigBody = _model_of(RunConfig)
    StatusBody = _model_of(Status, BaseModel)


class RunBody(Body):
    """A run to put at the end of the queue."""

    config: ConfigBody = Field(description="what run.json says; the model is the one that is loaded")


class StopBody(Body):
    """How a run is to end."""

    save: bool = Field(True, description="false: what was saved last stays")


class ResumeBody(Body):
    """From which state a run goes on."""

    earlier_state: bool = Field(False, description="true: from state-before.safetensors, where the last is damaged")


class WeightsBody(Body):
    """Block weights for the run that is being trained."""

    weights: str = Field(description=WEIGHTS, max_length=100_000)


class PlaceBody(Body):
    """A place in the queue."""

    place: int = Field(description="among the runs that wait, 1 for the next one", ge=1)


class AboutBody(Body):
    """What a person says of a run; what is not sent stays."""

    title: str | None = Field(None, description="for lists; empty for the configuration's name", max_length=100)
    notes: str | None = Field(None, max_length=10_000)


class RunState(StatusBody):
    """The state of a run; `seconds_left` is None while it is not known."""

    seconds_left: float | None = None


class RunList(BaseModel):
    """All runs, and the queue."""

    runs: list[RunState]
    queue: list[str] = Field(description="names of those that wait, in order")
    held: bool = Field(description="whether the queue waits until a run is resumed")
    damaged: dict[str, str] = Field(description="why runs cannot be read, by name; they are in neither list")


class RunStatus(BaseModel):
    """The state of a run, with rows of its metrics."""

    run: RunState
    metrics: list[dict[str, Any]] = Field(description="rows of later steps than asked for, the oldest first")
    more: bool = Field(description="whether there are more rows: ask again from the last one's step")


class FileItem(BaseModel):
    """A file that a run wrote, by its path in the run's folder."""

    name: str
    size: int = Field(description="bytes")


def sent_config(body: RunBody) -> dict[str, Any]:
    """The configuration with the keys that were sent and no others, for `config_json.read`."""
    return values_of(body.config, exclude_unset=True)
