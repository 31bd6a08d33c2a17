"""How many threads compute. Results depend on their number, to rounding; and over small matrices several wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["enough", "threads"]

SMALL = 1 << 19
"""Numbers of an update, below which one thread is enough. Measured on MNIST, six layers of width 200, two cores: with nothing else to do
two threads are 1.0 to 1.2 times as fast; beside two busy processes they take 2.5 to 3 times as long."""


def enough(numbers: int) -> int:
    """Threads for an update of so many numbers."""
    return 1 if numbers < SMALL else torch.get_num_threads()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for all that computes inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with _pools().limit(limits=count):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _pools() -> ThreadpoolController:
    """Of the libraries that are loaded: to look for them takes a millisecond."""
    return ThreadpoolController()
