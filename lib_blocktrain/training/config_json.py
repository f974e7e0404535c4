"""JSON to frozen dataclasses and back, strictly: an unknown entry, or one of the wrong type, is an error that names it.

An entry has its field's name in the file. A field with `metadata={"json_key": KEY}` is written as KEY, and read by
either name; one with `metadata={"also": NAME}` is read by NAME too, another program's name for it.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
MAX_BYTES = 4_000_000  # bytes of a configuration's file; a run.json with every option has a few thousand
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 100
_QUOTE.maxtuple = _QUOTE.maxlist = 6


class ConfigError(ValueError):
    """A value in `run.json` that cannot be used; the message says where it stands and what was expected."""


def read_text(path: Path) -> str:
    """Return the text of a configuration file; raise ConfigError for one that is too large or not UTF-8."""
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes: expected a configuration")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error


def key_of(field: dataclasses.Field[Any]) -> str:
    """The name of a field's entry in JSON."""
    return field.metadata.get("json_key", field.name)


def type_of(cls: type[DataclassInstance], path: str) -> Any:
    """Return the type hint of an entry by its path in the file, such as "network.rank"."""
    hint: Any = cls
    for key in path.split("."):
        hint = typing.get_type_hints(hint)[next(f.name for f in dataclasses.fields(hint) if key_of(f) == key)]
    return hint


def read(cls: type[T], data: object, where: str = "") -> T:
    """Return a dataclass of this JSON object; `where` is its path, for messages."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the run'}: {_shown(data)}: expected an object")
    known = {key_of(field): field for field in dataclasses.fields(cls)}
    also = {field.metadata["also"]: field for field in known.values() if "also" in field.metadata}
    spellings = {**also, **{field.name: field for field in known.values()}, **known}
    for key in data:
        if key not in spellings:
            near = get_close_matches(str(key)[:60], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise ConfigError(f"unknown {_shown(_at(where, key))}: {hint}")
    for key, field in known.items():
        given = [name for name in data if spellings[name] is field]
        if not given and _required(field):
            raise ConfigError(f"{_at(where, key)} is missing")
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(_at(where, name) for name in given)} are one entry: expected one of them")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        name = spellings[key].name
        values[name] = _value(hints[name], value, _at(where, key))
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(_placed(where, known, str(error))) from error


def write(value: object) -> Any:
    """Return plain values for `json.dumps`; `read` gives back an equal dataclass."""
    if dataclasses.is_dataclass(value):
        return {key_of(field): write(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: write(item) for key, item in value.items()}
    return [write(item) for item in value] if isinstance(value, tuple | list) else value


def check(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not holds:
        raise _error(name, value, expected)


def _error(name: str, value: object, expected: str) -> ConfigError:
    if value is None:
        return ConfigError(f"{name} is empty: expected {expected}")
    return ConfigError(f"{name} = {_shown(value)}: expected {expected}")


def _shown(value: object) -> str:
    """The value as a message quotes it; `reprlib` is quick with a large one and does not fail on a deep one."""
    return _QUOTE.repr(list(value) if isinstance(value, tuple) else value)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _placed(where: str, known: Collection[str], message: str) -> str:
    """Return what an object says of its values, with the object's path in front of the entry that it names."""
    if not where or message.startswith(f"{where}."):
        return message
    begins = re.match(r"\w+", message)
    return _at(where, message) if begins is not None and begins[0] in known else f"{where}: {message}"


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
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _error(where, value, "a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _error(where, value, "an object")
        return {key: _value(arguments[1], item, _at(where, key)) for key, item in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
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
    """Return a value that is no list and no object."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        if not isinstance(value, int | float) or not is_number or not abs(value) <= sys.float_info.max:
            raise _error(where, value, "a finite number")
        return float(value)
    if hint is int:
        if not isinstance(value, int | float) or not is_number or value % 1 != 0:
            raise _error(where, value, "a whole number")
        return int(value)
    if hint in (str, bool):
        check(isinstance(value, hint), where, value, "text" if hint is str else "true or false")
    return value
