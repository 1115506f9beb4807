"""Reading and writing that is tried again where a file system fails for the moment."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors that trying again does not mend."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0

T = TypeVar("T")


def patiently(action: Callable[[], T], attempts: int) -> T:
    """The result of an action; one that raises `OSError` is tried so many times, with longer and longer waits."""
    for attempt in range(1, attempts):
        try:
            return action()
        except OSError as error:
            if error.errno in LASTING:
                raise
            time.sleep(min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S))
    return action()
