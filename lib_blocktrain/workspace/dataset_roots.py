"""Where datasets may be: the folders that the host allows, and its own folder of sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.training.config_json import ConfigError, check

Roots = Callable[[], Sequence[Path] | None]  # None: anywhere


def sets_folder(host: Host) -> Path:
    """The folder of the sets that are made here; it need not be there yet."""
    return host.output_dir / "datasets"


def with_own_sets(roots: Sequence[Path] | None, host: Host) -> Sequence[Path] | None:
    """The same roots and the host's own sets."""
    return None if roots is None else [*roots, *([own] if (own := sets_folder(host)).is_dir() else [])]


def allowed(name: str, value: str, roots: Sequence[Path] | None) -> str:
    """The path with its links resolved; one that is not absolute is looked up in the roots. Raises ConfigError."""
    path = Path(value)
    if roots is None:
        check(path.is_absolute(), name, value, "an absolute path")
        return str(path.resolve())
    known = [root.resolve() for root in roots]
    for root in known:
        resolved = (root / path).resolve()  # of an absolute path the root is dropped
        if resolved.is_relative_to(root) and resolved.exists():
            return str(resolved)
    listed = ", ".join(map(str, known)) or "a folder that the settings allow (blocktrain_dataset_dirs), none is given"
    raise ConfigError(f"{name} = {value!r}: expected something in {listed}")
