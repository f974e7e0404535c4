"""The fake host and what the page's tests keep on it."""

from tests.ui.conftest import controls, host, jobs, lora_index

__all__ = ["controls", "host", "jobs", "lora_index"]
