"""The cache of a judge's answers, an SQLite file. Each answer is recorded before it is used."""

import fcntl
import json
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from bae_ray.comsem.answers_elsewhere import AnswersElsewhere
from bae_ray.comsem.completions import Answer
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError, UnreadableFileError

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    request TEXT PRIMARY KEY, answer TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dialects (server TEXT PRIMARY KEY, withheld TEXT NOT NULL);
"""


class AnswerCache:
    """The cache file, for one process at a time; a context manager.

    A killed process loses no answer that it has received.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._elsewhere: AnswersElsewhere | None = None

    def __enter__(self) -> Self:
        """Open the file, or create it.

        Raises `InvalidInputError` where another process uses it, and `UnreadableFileError` where it is not a cache.
        """
        if self._path.is_dir():
            raise InvalidInputError(
                f"the cache {self._path} is a folder. Give --cache a file, such as judge.sqlite in it."
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            lock = opened.enter_context(open(self._path.with_name(f"{self._path.name}.lock"), "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInputError(
                    f"the answers in {self._path} are in use by another process. Wait for it, or give another --cache."
                ) from error
            try:
                self._database = opened.enter_context(closing(sqlite3.connect(self._path, isolation_level=None)))
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")  # outlives the process, if not the machine's power
                self._database.executescript(_TABLES)
            except sqlite3.DatabaseError as error:
                raise UnreadableFileError(
                    f"{self._path} is not a cache of a judge's answers: {error}. Move it away, or give another --cache."
                ) from error
            self._elsewhere = AnswersElsewhere.of(self._path, self._database)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened:
            if self._elsewhere is not None:
                self._elsewhere.close()

    def get(self, request: dict[str, Any]) -> Answer | None:
        """The recorded answer to a request."""
        row = self._database.execute("SELECT answer FROM answers WHERE request = ?", (_key(request),)).fetchone()
        return None if row is None else Answer.of_record(json.loads(row[0]))

    def put(self, request: dict[str, Any], answer: Answer, tokens: tuple[int, int]) -> None:
        """Record an answer with its numbers of prompt and completion tokens. It is on disk when this returns."""
        self._database.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (_key(request), json.dumps(answer._asdict()), *tokens)
        )
        self._changed()

    def put_lost(self, tokens: tuple[int, int]) -> None:
        """Record the tokens that may have been paid for a request without an answer."""
        self._database.execute("INSERT INTO lost VALUES (?, ?)", tokens)
        self._changed()

    def _changed(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.changed()

    def tokens(self) -> tuple[int, int]:
        """Numbers of prompt and completion tokens of all that is recorded."""
        row = self._database.execute(
            "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM "
            "(SELECT prompt_tokens, completion_tokens FROM answers UNION ALL SELECT * FROM lost)"
        ).fetchone()
        return int(row[0]), int(row[1])

    def withheld(self, server: str) -> frozenset[str]:
        """Parameters that a server rejects, as far as known."""
        row = self._database.execute("SELECT withheld FROM dialects WHERE server = ?", (server,)).fetchone()
        return frozenset(json.loads(row[0])) if row else frozenset()

    def set_withheld(self, server: str, withheld: frozenset[str]) -> None:
        """Record the parameters that a server rejects, so that a later run sends the same requests."""
        self._database.execute("INSERT OR REPLACE INTO dialects VALUES (?, ?)", (server, json.dumps(sorted(withheld))))


def _key(request: dict[str, Any]) -> str:
    return content_hash(request)
