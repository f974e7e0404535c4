"""JSON to frozen dataclasses and back, strictly: what is unknown or of the wrong kind is an error that names it."""

from __future__ import annotations

import dataclasses
import reprlib
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 100
_QUOTE.maxtuple = _QUOTE.maxlist = 6


class ConfigError(ValueError):
    """A value in `run.json` that cannot be used; the message says where it stands and what was expected."""


def read(cls: type[T], data: object, where: str = "") -> T:
    """Return a dataclass of this JSON object; `where` is its place, for messages."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the run'}: {_shown(data)}: expected an object")
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            near = get_close_matches(str(key)[:60], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise ConfigError(f"unknown {_shown(_at(where, key))}: {hint}")
    missing = [field.name for field in dataclasses.fields(cls) if field.name not in data and _required(field)]
    if missing:
        raise ConfigError(f"{_at(where, missing[0])} is missing")
    values = {key: _value(hints[key], value, _at(where, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def write(value: object) -> Any:
    """Return plain values for `json.dumps`; `read` gives back an equal dataclass."""
    if dataclasses.is_dataclass(value):
        return {field.name: write(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: write(item) for key, item in value.items()}
    return [write(item) for item in value] if isinstance(value, tuple | list) else value


def check(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not holds:
        raise ConfigError(f"{name} = {_shown(value)}: expected {expected}")


def _shown(value: object) -> str:
    """The value as a message quotes it; `reprlib` neither takes long over a large one nor fails on a deep one."""
    return _QUOTE.repr(value)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _value(hint: Any, value: object, where: str) -> object:
    """Return the value as this type hint wants it."""
    if hint is Any:
        check(_is_shallow(value, 20), where, value, "values nested up to 20 deep")
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        if value is None and len(options) < len(arguments):
            return None
        return _any_of(options, value, where)
    if origin is typing.Literal:
        check(value in arguments, where, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        check(isinstance(value, Sequence) and not isinstance(value, str), where, value, "a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        check(isinstance(value, Mapping), where, value, "an object")
        return {key: _value(arguments[1], item, _at(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(hint, value, where)
    return _plain(hint, value, where)


def _is_shallow(value: object, deepest: int) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return deepest > 0 and all(_is_shallow(item, deepest - 1) for item in items)


def _any_of(options: Sequence[Any], value: object, where: str) -> object:
    for option in options[:-1]:
        try:
            return _value(option, value, where)
        except ConfigError:
            continue
    return _value(options[-1], value, where)


def _plain(hint: Any, value: object, where: str) -> object:
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        check(number and abs(value) <= sys.float_info.max, where, value, "a finite number")
        return float(value)
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        check(whole and not isinstance(value, bool), where, value, "a whole number")
        return int(value)
    if hint in (str, bool):
        check(isinstance(value, hint), where, value, "text" if hint is str else "true or false")
    return value
