"""The samples of a run as data in the page, for browsers that may not fetch them from the API (`--api-auth` alone)."""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path

from PIL import Image

from lib_blocktrain.files import PICTURE_FORMATS
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui.history import History

SIDE = 384  # pixels
MOST = 48  # the newest


def inline(run: Run, history: History) -> dict[str, str]:
    """The newest samples as data URLs, by the name of their file; one that cannot be read is left out."""
    found = {}
    for sample in history.samples[-MOST:]:
        path = run.folder / "samples" / sample.file
        try:
            found[sample.file] = _reduced(path, path.stat().st_mtime_ns)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a truncated file, or not an image
            continue
    return found


@functools.lru_cache(maxsize=2 * MOST)
def _reduced(path: Path, modified: int) -> str:
    """A sample as a data URL; `modified` is in the cache's key, so that a replaced file is read again."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
