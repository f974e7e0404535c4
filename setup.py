"""Adds to the wheel the data files that are outside the package, where a WebUI reads them; see pyproject.toml.

`lib_blocktrain.files.DATA` finds the files in both. The demo model (32 MB) is left out unless BLOCKTRAIN_DEMO is set.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
DATA = (
    "style.css",
    "javascript/*.js",
    "localizations/*.json",
    "demo/model/tokenizer/merges.txt",
)  # every checkpoint has CLIP's tokenizer
DEMO = ("demo/model/**/*", "demo/loras/*")


class BuildWithData(build_py):
    """Copies the data files to `lib_blocktrain/data`."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)  # otherwise deleted modules would stay in the wheel
        super().run()
        for source, target in self._data().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._data().values()]

    def _data(self) -> dict[Path, str]:
        if self.editable_mode:
            return {}
        patterns = DATA + (DEMO if os.environ.get("BLOCKTRAIN_DEMO") else ())
        found = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
        folder = Path(self.build_lib) / "lib_blocktrain" / "data"
        return {path: str(folder / path.relative_to(ROOT)) for path in found}


setup(cmdclass={"build_py": BuildWithData})
