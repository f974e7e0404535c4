"""The licences of all that is installed with us, as a table: ``python tests/trust/licences.py``.

It writes `requirements/LICENCES.md` anew, from what the packages of this environment say of themselves; what is not
installed here keeps its row. `test_licences` holds the table to the locks.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / "requirements"
TABLE = REQUIREMENTS / "LICENCES.md"
LOCKS = sorted(REQUIREMENTS.glob("*.txt"))
HEAD = """# Licences

Of every package that the standalone environment (`run.txt`), the tests (`test.txt`) and the browser tests under
gradio 3 (`gradio3.txt`) install, by what it says of itself. PyTorch is installed by itself, and is under BSD-3-Clause.
Made by `python tests/trust/licences.py`; `test_licences` in `tests/trust/` holds it.

| package | version | licence | lock |
|---|---|---|---|
"""
_SHORT = (
    (r"Apache", "Apache-2.0"),
    (r"MPL|Mozilla", "MPL-2.0"),
    (r"HPND|Historical Permission", "HPND"),
    (r"PSF|Python Software Foundation", "PSF-2.0"),
    (r"BSD-2|Simplified BSD|2-Clause", "BSD-2-Clause"),
    (r"BSD|Redistribution and use", "BSD-3-Clause"),
    (r"ISC", "ISC"),
    (r"Unlicense", "Unlicense"),
    (r"MIT|Permission is hereby granted", "MIT"),
)


def requirements(lock: Path) -> list[list[str]]:
    """Each requirement of a lock as its words: name==version, then options."""
    joined = lock.read_text("utf-8").replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def locked(lock: Path) -> list[tuple[str, str]]:
    """Name and version of each package of a lock."""
    found = (re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[.*\])?==(\S+)", words[0]) for words in requirements(lock))
    return [(match[1], match[2]) for match in found if match]


def said_of(name: str, otherwise: str) -> str:
    """What a distribution says of its licence; `otherwise` where it is not installed."""
    try:
        data = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return otherwise
    licence = data.get("License") or ""
    if re.fullmatch(r"[\w.+-]+(?: (?:AND|OR) [\w.+-]+)+", licence):
        return licence  # an expression of SPDX, which the classifiers list without saying how they go together
    said = [data.get("License-Expression") or "", *(c for c in data.get_all("Classifier") or [] if "License" in c)]
    return " ".join([*said, licence[:300]]).strip()


def short(said: str) -> str:
    """The licence's short name; the text itself where it is known by none."""
    if re.fullmatch(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*", said):
        return said  # an expression of SPDX
    return next((name for pattern, name in _SHORT if re.search(pattern, said)), said[:60])


def table() -> dict[tuple[str, str], str]:
    """Licences by package and version, as the file has them."""
    lines = TABLE.read_text("utf-8").splitlines() if TABLE.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {(row[0], row[1]): row[2] for row in rows[1:] if len(row) == 4}


def main() -> None:
    known, rows = table(), {}
    for lock in LOCKS:
        for name, version in locked(lock):
            rows.setdefault((name, version), []).append(lock.name)
    lines = [
        f"| {name} | {version} | {short(said_of(name, '')) or known.get((name, version), '')} | {', '.join(locks)} |\n"
        for (name, version), locks in sorted(rows.items())
    ]
    temporary = TABLE.with_suffix(".tmp")
    temporary.write_text(HEAD + "".join(lines), "utf-8")
    temporary.replace(TABLE)


if __name__ == "__main__":
    main()
