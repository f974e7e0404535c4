"""The miniature models; every test must leave them as they were."""

from __future__ import annotations

import pytest

from tests.analysis.miniature import MODELS, Miniature


@pytest.fixture(scope="session")
def models() -> dict[str, Miniature]:
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(params=MODELS)
def model(request, models) -> Miniature:
    return models[request.param]


@pytest.fixture
def sd1(models) -> Miniature:
    return models["diffusers sd1"]
