"""Memory that a piece of code takes, as a test's subject."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

MB = 1 << 20


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """No more memory than so many bytes is taken at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= limit
    finally:
        tracemalloc.stop()
