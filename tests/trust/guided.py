"""Guided fuzzing: atheris keeps inputs that reach new lines of the package, and mutates them further.

``python guided.py NAME SECONDS [SEED]`` tries one reader; atheris prints how many inputs it ran, and the input that
broke something. `test_guided.py` runs all of them where atheris is installed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
LARGEST = 4096  # bytes of an input


def text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    from tests.trust.tally import refused

    return lambda data: _ignored(refused(lambda: read(data.decode("utf-8", "surrogateescape"))))


def file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """What reads a file of this name; a refusal must name it."""
    from tests.trust.tally import refused

    path = Path(tempfile.mkdtemp()) / name

    def check(data: bytes) -> None:
        path.write_bytes(data)
        refused(lambda: read(path), str(path))

    return check


def _ignored(said: str | None) -> None:
    """A refusal in words is what is expected."""


def preset_strings() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.blocks import ARCHITECTURES
    from lib_blocktrain.weights.preset_strings import parse
    from tests.trust.test_bad_input import STRINGS

    def read(string: str) -> None:
        for architecture in ARCHITECTURES:
            parse(string, architecture, seed=1, x=0.5)

    return text(read), [string.encode() for string in STRINGS]


def preset_files() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.weights.preset_files import read_lbw_presets, read_presets
    from tests.trust.test_bad_input import STRINGS

    def read(string: str) -> None:
        read_presets(string)
        read_lbw_presets(string)

    return text(read), ["\n".join(STRINGS).encode(), b"A:OUT=1\nB:1,1 # x\n"]


def parameters() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.workspace.images import read_infotext
    from tests.trust.test_bad_input import INFOTEXT

    return text(lambda string: read_infotext(string).loras), [INFOTEXT.encode()]


def tags() -> tuple[Callable[[bytes], None], list[bytes]]:
    from tests.trust.test_bad_input import TAGS, read_prompt

    return text(read_prompt), [prompt.encode() for prompt in TAGS]


def runs() -> tuple[Callable[[bytes], None], list[bytes]]:
    import json

    from lib_blocktrain.training.config import load
    from tests.trust.test_bad_input import RUN

    return file("run.json", load), [json.dumps(RUN).encode()]


def toml() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.training.config import DatasetConfig
    from lib_blocktrain.training.kohya_toml import read_toml
    from tests.trust.test_bad_input import KOHYA

    return file("dataset.toml", lambda path: read_toml(DatasetConfig(toml=str(path)))), [KOHYA.encode()]


def headers() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.networks.contents import describe
    from tests.fakes import write_lora

    valid = write_lora(Path(tempfile.mkdtemp()) / "robot.safetensors", ss_output_name="robot").read_bytes()
    return file("robot.safetensors", describe), [valid]


def networks() -> tuple[Callable[[bytes], None], list[bytes]]:
    from lib_blocktrain.networks.files import read_network

    return file("robot.safetensors", read_network), headers()[1]


def states() -> tuple[Callable[[bytes], None], list[bytes]]:
    import torch

    from lib_blocktrain.training import state_file

    path = Path(tempfile.mkdtemp()) / "state.safetensors"
    state_file.save(path, {"step": 3, "learner": {"parameters": [torch.ones(2, 3)]}, "pairs": {1: (2, "a")}})
    return file("state.safetensors", state_file.load), [path.read_bytes()]


READERS = {
    reader.__name__: reader
    for reader in (preset_strings, preset_files, parameters, tags, runs, toml, headers, networks, states)
}


def main() -> None:
    name, seconds, *seed = sys.argv[1:]
    import atheris

    with atheris.instrument_imports(include=["lib_blocktrain"]):
        check, valid = READERS[name]()
    corpus = Path(tempfile.mkdtemp())
    for number, content in enumerate(valid):
        (corpus / str(number)).write_bytes(content)
    options = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=120", "-rss_limit_mb=4096"]
    options += ["-print_final_stats=1", f"-seed={seed[0] if seed else 1}", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
