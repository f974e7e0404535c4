"""Everything on a pretended GPU (see `pretended`): nothing lies on the wrong device, no dtypes are mixed, and each step
makes the CPU wait for the GPU as seldom as is known. `pytest -s tests/gpu` prints the tables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("diffusers")

from tests.gpu import cases
from tests.gpu.pretended import ROOT, build_guard, preloaded

LONG = ("variants", "hosts")  # groups that are not in the run of all tests
# Of transformers' Adafactor, in each step for each tensor; and where captions are encoded in the step, the host's.
OTHERS = {"train Adafactor": ("optimize", None), "train text encoder": (None, "copy to cuda")}


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    try:
        return preloaded(build_guard(tmp_path_factory.mktemp("guard")))
    except RuntimeError as error:
        if os.environ.get("BLOCKTRAIN_CI") and shutil.which("g++"):
            raise  # a guard that no longer compiles would hide all of these tests
        pytest.skip(str(error))


def results_of(group: str, environment: dict[str, str]) -> dict[str, dict]:
    """Run a group of cases in a process of its own, and return what they found, by name."""
    command = [sys.executable, "-m", "tests.gpu.cases", group]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["case"] for row in found] == [name for name, _ in cases.cases(group)], done.stderr[-2000:]
    return {row["case"]: row for row in found}


def count(row: dict, kind: str, without: str | None = None) -> float:
    """Return the number of a case's waits or copies, except those at lines that contain `without`."""
    return sum(number for site, number in row[kind].items() if without is None or without not in site)


def write_table(title: str, rows: dict[str, dict]) -> None:
    lines = [f"\n{title:48} waits  copies to the GPU"]
    lines += [f"{name:48} {count(row, 'waits'):5g}  {count(row, 'copies'):6g}" for name, row in rows.items()]
    sys.stdout.write("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "group",
    [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in cases.GROUPS if name != "controls"],
)
def test_on_a_pretended_gpu(environment, group):
    rows = results_of(group, environment)
    failed = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())
    rows = {name: row for name, row in rows.items() if row["skipped"] is None}
    if not rows:
        pytest.skip("Stability's U-Net is not installed: pip install stable-diffusion-sdkit")
    write_table(f"{group}: a step of training and previews", {n: r for n, r in rows.items() if _is_step(n)})
    write_table(f"{group}: all of it", {n: r for n, r in rows.items() if not _is_step(n)})
    for name, row in rows.items():
        if name.startswith("train "):
            waits, copies = next((o for key, o in OTHERS.items() if name.startswith(key)), (None, None))
            assert count(row, "waits", waits) <= 1, f"{name}: {row['waits']}"
            assert count(row, "copies", copies) == 0, f"{name}: {row['copies']}"
        if name.startswith("preview "):
            ours = {site: number for site, number in row["waits"].items() if "_draw" not in site}  # the sampler's
            assert not ours, f"{name}: {ours}"
        if name.startswith("merge "):  # for its checks alone
            assert (count(row, "waits"), count(row, "copies")) == (1, 0), f"{name}: {row}"
        if name.startswith("analysis ") and name.endswith(" fast"):  # one a pass, and none in a layer
            passes = row["waits"].get(next(site for site in row["waits"] if "integrated_gradients" in site))
            assert count(row, "waits") <= passes + 24, f"{name}: {row['waits']}"
            layers = [site for site in row["copies"] if "hooks.py" in site]
            assert not layers, f"{name}: {layers}"


def _is_step(name: str) -> bool:
    return name.startswith(("train ", "preview "))


def test_what_must_fail_is_seen(environment):
    rows = results_of("controls", environment)
    expected = {
        "noise on the cpu": "DevicesError: add: tensors on cuda:0 and cpu",
        "half times float": "MixedDtypesError: mm of torch.float16, torch.float32",
        "half convolution of float": "Input type",
        "generator of the cpu": "Expected a 'cuda' device type for generator but found 'cpu'",
    }
    for name, text in expected.items():
        assert text in (rows[name]["error"] or ""), f"{name}: {rows[name]}"
    counted = rows["waits and copies"]
    assert counted["error"] is None, counted
    assert (count(counted, "waits"), count(counted, "copies")) == (6, 3), counted
