"""The file `blocktrain.json` in a folder of pictures: where the crop of a picture is centred, if not in the middle.

`{"format": 1, "focus": {"012.png": [0.5, 0.3]}}`: x from the left and y from the top, 0 to 1 of the upright one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from lib_blocktrain.files import error_text
from lib_blocktrain.training.picture_files import DatasetError

Focus = tuple[float, float]

FILE = "blocktrain.json"
FORMAT = 1
MAX_BYTES = 4_000_000
_DIGITS = 4  # of a picture of 10,000 pixels a side it is a pixel


def checked_focus(value: object) -> Focus:
    """Return the focus that two numbers from 0 to 1 are; raise ValueError for anything else."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_share, value)):
        return round(float(value[0]), _DIGITS), round(float(value[1]), _DIGITS)
    raise ValueError(f"focus {str(value)[:60]}: expected x and y, each 0 to 1")


def read_focus(folder: Path) -> dict[str, Focus]:
    """Return the focus by the file names of a folder's pictures; nothing where there is no file.

    Raises DatasetError, with the path, for a file that cannot be used, since the crops would be others in silence.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_BYTES} bytes: expected the focus of pictures")
        return focus_of(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DatasetError(error_text(error)) from error
    except DatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: {error}") from error


def focus_of(content: bytes) -> dict[str, Focus]:
    """Return the focus by file name that the contents of the file say; raise ValueError."""
    data = json.loads(content.decode("utf-8-sig"))
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("focus"), dict):
        raise ValueError(f'expected {{"format": {FORMAT}, "focus": {{...}}}}')
    return {name: checked_focus(value) for name, value in data["focus"].items()}


def focus_file(focus: Mapping[str, Focus]) -> bytes:
    """Return the contents of the file."""
    rows = {name: list(focus[name]) for name in sorted(focus)}
    return json.dumps({"format": FORMAT, "focus": rows}, indent=1).encode() + b"\n"


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
