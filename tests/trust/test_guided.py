"""The parsers of outside input, fuzzed by atheris; skipped where it is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="fuzzing by coverage wants atheris: pip install atheris")

from tests.trust import guided

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("name", guided.READERS)
def test_bred_inputs(tally, name):
    command = [sys.executable, str(Path(guided.__file__)), name, str(tally.scale.seconds)]
    with tally.case(f"bred by atheris: {name}"):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    ran = int(re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)[1])
    tally.rows[f"bred by atheris: {name}"].cases += ran - 1
    assert ran > 100
