"""The fake host and what the page's tests keep on it."""

from tests.ui.conftest import desk, host, jobs, library

__all__ = ["desk", "host", "jobs", "library"]
