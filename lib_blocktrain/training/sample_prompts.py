"""Sample prompts with options of their own, in sd-scripts' notation, from run.json or from its file of prompts.

`a robot --w 512 --h 768 --d 7 --l 5.5 --s 28 --n blurry --ss Euler a`: width and height, seed, CFG, steps, negative
prompt, sampler. As in sd-scripts (`line_to_prompt_dict`) an option begins with a space and two dashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_blocktrain.files import lines_of
from lib_blocktrain.training.config_json import ConfigError, check, read_text
from lib_blocktrain.training.kohya_toml import toml_reader

MOST_STEPS = 1000  # as sd-scripts
MOST_SEED = 2**63 - 1  # as torch


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt; what is None is the run's."""

    prompt: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None


# Of a line, the field, and what its value is.
_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "w": ("width", int, "a multiple of 8 from 64 on"),
    "h": ("height", int, "a multiple of 8 from 64 on"),
    "d": ("seed", int, f"a whole number from 0 to {MOST_SEED}"),
    "s": ("steps", int, f"1 to {MOST_STEPS}"),
    "l": ("cfg", float, "a number from 0 on"),
    "n": ("negative", str, "text"),
    "ss": ("sampler", str, "a sampler's name"),
}
# Of sd-scripts' .json and .toml, and the option of a line.
_NAMES = {
    "negative_prompt": "n", "width": "w", "height": "h", "seed": "d", "sample_steps": "s", "scale": "l",
    "sample_sampler": "ss",
}  # fmt: skip


def read_prompt(line: str) -> SamplePrompt:
    """Return the prompt of a line; raise ConfigError for an option that is not known, or has a wrong value."""
    prompt, *options = line.split(" --")
    values: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition(" ")
        if name.lower() not in _OPTIONS:
            expected = ", ".join(f"--{known}" for known in _OPTIONS)
            raise ConfigError(f"sample prompt {line[:60]!r}: unknown --{option[:40]}: expected one of {expected}")
        field, kind, expected = _OPTIONS[name.lower()]
        values[field] = _value(f"--{name}", text.strip(), kind, expected, line)
    return SamplePrompt(prompt.strip(), **values)


def _value(name: str, text: str, kind: Callable[[str], Any], expected: str, line: str) -> Any:
    where = f"sample prompt {line[:60]!r}: {name}"
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{where} {text[:40]!r}: expected {expected}") from None
    holds = {
        "--w": lambda: value >= 64 and value % 8 == 0,
        "--h": lambda: value >= 64 and value % 8 == 0,
        "--d": lambda: 0 <= value <= MOST_SEED,
        "--s": lambda: 1 <= value <= MOST_STEPS,
        "--l": lambda: 0 <= value < float("inf"),
    }.get(name.lower(), lambda: bool(value))()
    check(holds, where, value, expected)
    return value


def prompts_in(path: Path) -> tuple[str, ...]:
    """Return the lines of sd-scripts' file of prompts (`--sample_prompts`), .txt, .json or .toml; or ConfigError."""
    text = read_text(path)
    if path.suffix.lower() == ".txt":
        return tuple(line.strip() for line in lines_of(text) if line.strip() and not line.startswith("#"))
    if path.suffix.lower() == ".json":
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}") from error
        check(isinstance(items, list), str(path), type(items).__name__, "a list of prompts")
    elif path.suffix.lower() == ".toml":
        items = _items_of_toml(path, text)
    else:
        raise ConfigError(f"samples.file = {str(path)!r}: expected a .txt, .json or .toml file")
    return tuple(item if isinstance(item, str) else _line(item, path) for item in items)


def _items_of_toml(path: Path, text: str) -> list[Any]:
    reader = toml_reader(path)
    try:
        data = reader.loads(text)
    except (reader.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    general = data.get("prompt", {})
    subsets = general.get("subset", []) if isinstance(general, Mapping) else []
    check(isinstance(subsets, list) and bool(subsets), f"{path}: prompt.subset", subsets, "tables [[prompt.subset]]")
    shared = {name: value for name, value in general.items() if name != "subset"}
    return [{**shared, **subset} if isinstance(subset, Mapping) else subset for subset in subsets]


def _line(item: Any, path: Path) -> str:
    """Return a prompt of a .json or .toml as a line."""
    if not isinstance(item, Mapping):
        raise ConfigError(f"{path}: {item!r}: expected text, or an object with a prompt")
    unknown = sorted(set(item) - {"prompt", "enum", *_NAMES})
    if unknown:
        known = ", ".join(("prompt", *_NAMES))
        raise ConfigError(f"{path}: unknown {unknown[0]!r}: expected {known}")
    options = [
        f"--{_NAMES[name]} {value}" for name, value in item.items() if name in _NAMES and value not in (None, "")
    ]
    return " ".join(" ".join([str(item.get("prompt", "")), *options]).splitlines())
