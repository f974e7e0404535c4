"""A lack of memory, said with what a run needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib_blocktrain.model.memory import lacks_memory
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.control import OutOfMemory
from lib_blocktrain.training.estimate import out_of_memory


@contextmanager
def memory_errors(config: RunConfig, model: Model) -> Iterator[None]:
    """Turn a lack of memory into OutOfMemory with an explanation, and empty the cache afterwards."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemory(out_of_memory(config, model)) from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
