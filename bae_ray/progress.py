"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bae_ray.structured_log import event, is_structured

LOG_INTERVAL_S = 30.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def is_watched() -> bool:
    """Whether somebody looks on: at a terminal or in a notebook."""
    return console.is_terminal or console.is_jupyter


class Tracker:
    """Counts finished work and shows it."""

    def __init__(self, label: str, total: int | None, bar: Progress | None, unit: str = "") -> None:
        self._label, self._total, self._bar, self._unit = label, total, bar, unit and f" {unit}"
        self._task = bar.add_task(label, total=total, unit=unit) if bar else None
        self._done, self._note, self._said = 0, "", -1
        self._first: tuple[float, int] | None = None
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """How much work is left; 0 where nobody knows."""
        return (self._total or self._done) - self._done

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Add finished work; `note` is shown beside the count."""
        self._done, self._note = self._done + amount, note
        # Speed is measured from here: what comes first may be of an earlier run, or have waited for workers.
        self._first = self._first or (time.monotonic(), self._done)
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=amount, description=f"{self._label} {note}".strip())
        elif self._done == self._total:
            self.say()

    def expect(self, total: int) -> None:
        """Set how much work there is, once that is known."""
        self._total = total
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=total)
        elif self._done == total:
            self.say()

    def reach(self, done: int) -> None:
        """Set how much work is finished; what an earlier run has done counts."""
        self.advance(done - self._done)

    def say(self) -> None:
        """Write how far it is, with the rate and what time is left, as a line of a log."""
        with self._lock:
            if self._done == self._said == self._total:
                return
            self._said = self._done
            began, first = self._first or (0.0, self._done)
            rate = (self._done - first) / max(time.monotonic() - began, 1e-9)
            seconds = self.left / rate if rate and self._total else None
            if is_structured():
                numbers = {"done": self._done, "total": self._total, "per_s": rate and float(f"{rate:.4g}")}
                event("progress", what=self._label, **numbers, seconds_left=seconds and round(seconds), note=self._note)
                return
            total = "" if self._total is None else f"/{self._total}"
            speed = f", {_speed(rate)}" if rate else ""
            left = f", {duration(seconds)} left" if seconds else ""
            print(
                f"{self._label}: {self._done}{total}{self._unit}{speed}{left} {self._note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def track(label: str, total: int | None, unit: str = "") -> Iterator[Tracker]:
    """Show the progress of `total` units of work (None: unknown) while the context is open.

    `unit`: what a unit is, in the plural, where the label does not tell.
    """
    if not console.is_terminal:
        tracker, ended = Tracker(label, total, None, unit), threading.Event()
        threading.Thread(target=_keep_saying, args=(tracker, ended), daemon=True).start()
        try:
            yield tracker
        finally:
            ended.set()
        return
    counts = (MofNCompleteColumn(), *([TextColumn("{task.fields[unit]}")] if unit else []))
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Tracker(label, total, bar, unit)


def duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _keep_saying(tracker: Tracker, ended: threading.Event) -> None:
    """A line every so often, also where nothing has come of a long unit yet: the log shows that the work goes on."""
    while not ended.wait(LOG_INTERVAL_S):
        tracker.say()


def _speed(per_s: float) -> str:
    if per_s >= 1:
        return f"{per_s:.3g}/s" if per_s < 1000 else f"{per_s:.0f}/s"
    return f"{60 * per_s:.3g}/min" if per_s >= 1 / 60 else f"{3600 * per_s:.3g}/h"
