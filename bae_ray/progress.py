"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL_S = 15.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def is_watched() -> bool:
    """Whether somebody looks on: at a terminal or in a notebook."""
    return console.is_terminal or console.is_jupyter


class Tracker:
    """Counts finished work and shows it."""

    def __init__(self, label: str, total: int | None, bar: Progress | None) -> None:
        self._label, self._total, self._bar = label, total, bar
        self._task = bar.add_task(label, total=total) if bar else None
        self._done = 0
        self._logged = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Add finished work; `note` is shown beside the count."""
        self._done += amount
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=amount, description=f"{self._label} {note}".strip())
        elif time.monotonic() - self._logged >= LOG_INTERVAL_S or self._done == self._total:
            self._logged = time.monotonic()
            total = "" if self._total is None else f"/{self._total}"
            print(f"{self._label}: {self._done}{total} {note}".rstrip(), file=sys.stderr, flush=True)

    def expect(self, total: int) -> None:
        """Set how much work there is, once that is known."""
        self._total = total
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=total)

    def reach(self, done: int) -> None:
        """Set how much work is finished; what an earlier run has done counts."""
        self.advance(done - self._done)


@contextmanager
def track(label: str, total: int | None) -> Iterator[Tracker]:
    """Show the progress of `total` units of work (None: unknown) while the context is open."""
    if not console.is_terminal:
        yield Tracker(label, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield Tracker(label, total, bar)
