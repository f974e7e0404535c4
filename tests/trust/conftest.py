"""The tally of all trust tests, and its table at the end."""

from __future__ import annotations

import pytest

from tests.training.conftest import config, model, pictures, train  # noqa: F401 - fixtures
from tests.trust.tally import Scale, Tally

_KEY = pytest.StashKey[Tally]()


def pytest_configure(config):  # noqa: F811 - pytest's own name for its argument
    given = (plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Scale))
    config.stash[_KEY] = Tally(next(given, Scale()))


@pytest.fixture(scope="session")
def tally(request) -> Tally:
    return request.config.stash[_KEY]


def pytest_terminal_summary(terminalreporter, config):  # noqa: F811
    tally = config.stash[_KEY]
    if tally.rows:
        terminalreporter.section("trust")
        for line in tally.lines():
            terminalreporter.write_line(line)
