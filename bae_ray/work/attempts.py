"""Trying again: attempts at units, counted in files, so that a unit that kills its workers is given up; patience."""

import errno
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bae_ray.files import TEMPORARY_SUFFIX
from bae_ray.storage import Folder
from bae_ray.work.preemption import if_cut_short

ATTEMPTS = "attempts"
STARTS = f"{ATTEMPTS}/starts"
LITTLE_MEMORY = "too little memory is the usual reason"
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors that trying again does not mend."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0

T = TypeVar("T")


class Attempts:
    """Counts attempts below `attempts/` in a folder. Ray replaces a dead worker and retries its unit without end."""

    def __init__(self, folder: Folder, most: int) -> None:
        self._folder, self._most = folder, most
        self._begun: dict[str, int] = {}
        self._start = ""

    def begin(self, unit: str) -> str:
        """Count an attempt at a unit; why the unit is given up, if there were too many."""
        name = f"{ATTEMPTS}/{unit}"
        before = int(self._folder.read_text(name)) if self._folder.exists(name) else 0
        if before >= self._most:
            return f"its worker died {self._most} times; {self._explanation(unit) or LITTLE_MEMORY}"
        self._folder.write_text(name, str(before + 1))
        self._begun[unit] = before
        return ""

    @contextmanager
    def under_way(self, unit: str) -> Iterator[None]:
        """Around an attempt from before `begin`: one that ends because the process was asked to end does not count."""

        def not_counted() -> None:
            if unit in self._begun:
                self._folder.write_text(f"{ATTEMPTS}/{unit}", str(self._begun[unit]))

        try:
            with if_cut_short(not_counted):
                yield
        finally:
            self._begun.pop(unit, None)

    def explain(self, unit: str, problem: str) -> None:
        """Write down what the latest attempt died of."""
        self._folder.write_text(f"{ATTEMPTS}/{unit}-problem", problem)

    def _explanation(self, unit: str) -> str:
        name = f"{ATTEMPTS}/{unit}-problem"
        return self._folder.read_text(name) if self._folder.exists(name) else ""

    def begin_start(self) -> list[str]:
        """Write down that a worker starts; the starts that have not ended, with this one."""
        self._start = f"{STARTS}/{uuid.uuid4().hex}"
        self._folder.write_text(self._start, "a worker is starting\n")
        return [name for name in self._folder.files(STARTS) if not name.endswith(TEMPORARY_SUFFIX)]

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around a start: one that ends because the process was asked to is forgotten."""
        with if_cut_short(lambda: self.end_starts([self._start] if self._start else [])):
            yield

    def end_starts(self, starts: Iterable[str]) -> None:
        """Forget starts: one that ended well shows that those before it did not die of what they loaded."""
        for name in starts:
            self._folder.remove_file(name)

    def forget(self) -> None:
        """Count attempts anew."""
        self._folder.remove(ATTEMPTS)


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
