"""The judge's answers where they belong into a bucket: SQLite needs a file of this machine's, which goes there often.

The file here may hold answers that are not there yet, and the other way round: both count. A machine that is lost takes
the answers of the last seconds with it.
"""

import sqlite3
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bae_ray.files import elsewhere
from bae_ray.storage import Folder

EVERY_S = 10.0
"""Seconds from one copy to the next."""
PATIENCE = 20
"""A copy takes at most this part of the time."""


class AnswersElsewhere:
    """Copies an open database of answers to where its path belongs."""

    def __init__(self, path: Path, database: sqlite3.Connection, there: tuple[Folder, str]) -> None:
        self._path, self._database, (self._folder, self._name) = path, database, there
        self._thread = ThreadPoolExecutor(1, "answers")
        self._copying: Future[float] | None = None
        self._due, self._changed = time.monotonic() + EVERY_S, False
        self._take_over()

    @classmethod
    def of(cls, path: Path, database: sqlite3.Connection) -> "AnswersElsewhere | None":
        """None where the path is this machine's. Takes over what is recorded there."""
        there = elsewhere(path)
        return None if there is None else cls(path, database, there)

    def changed(self) -> None:
        """Something was recorded: copy the database if that is due and none is under way."""
        self._changed = True
        if self._copying is not None and self._copying.done():
            done, self._copying = self._copying, None
            # One that failed is made again; the last one, when the database is closed, has to succeed.
            took = 0.0 if done.exception() is not None else done.result()
            self._due = time.monotonic() + max(EVERY_S, PATIENCE * took)
        if self._copying is None and time.monotonic() >= self._due:
            self._copying = self._thread.submit(self._upload, self._snapshot())

    def close(self) -> None:
        """Copy what was recorded since. Raises `OSError` where that fails."""
        try:
            if self._copying is not None:
                self._copying.exception()
            if self._changed:
                self._upload(self._snapshot())
        finally:
            self._thread.shutdown()

    def _snapshot(self) -> Path:
        snapshot = self._path.with_name(f".{self._path.name}.snapshot.tmp")
        snapshot.unlink(missing_ok=True)
        self._database.execute("VACUUM INTO ?", (str(snapshot),))
        return snapshot

    def _upload(self, snapshot: Path) -> float:
        began = time.monotonic()
        self._folder.upload(snapshot, self._name)
        snapshot.unlink(missing_ok=True)
        return time.monotonic() - began

    def _take_over(self) -> None:
        if self._folder.find(self._name) is None:
            return
        copy = self._path.with_name(f".{self._path.name}.copy.tmp")
        self._folder.download(self._name, copy)
        self._database.execute("ATTACH ? AS there", (str(copy),))
        with_lost = self._database.execute("SELECT count(*) FROM main.lost").fetchone()[0]
        for table in ("answers", "dialects") if with_lost else ("answers", "dialects", "lost"):
            self._database.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM there.{table}")  # noqa: S608
        self._database.execute("DETACH there")
        copy.unlink()
