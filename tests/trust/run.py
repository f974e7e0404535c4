"""All of the trust tests in their long form, and the table: ``python tests/trust/run.py [--rounds N]``.

In an environment that ``python -m lib_blocktrain test`` has made. What follows ``--`` goes to pytest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def main() -> int:
    sys.path.insert(0, str(HERE.parent.parent))
    from tests.trust.tally import Scale

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="random inputs of each kind (%(default)s)")
    parser.add_argument("--kills", type=int, default=30, help="how often training is killed (%(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="operations on each layout's model (%(default)s)")
    parser.add_argument("--steps", type=int, default=40_000, help="steps of a long training (%(default)s)")
    parser.add_argument("--requests", type=int, default=60, help="of each of ten clients under load (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="of atheris, for each reader (%(default)s)")
    parser.add_argument("pytest", nargs="*", metavar="...", help="arguments for pytest, behind --")
    arguments = parser.parse_args()
    scale = Scale(**{name: value for name, value in vars(arguments).items() if name != "pytest"})
    return pytest.main([str(HERE), "-q", *arguments.pytest], plugins=[scale])


if __name__ == "__main__":
    sys.exit(main())
