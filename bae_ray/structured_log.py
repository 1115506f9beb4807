"""The log as lines of JSON, for what collects logs: BAE_RAY_LOG_FORMAT=json, or --log-format json.

Then whatever this process writes to its standard error is an object a line, with time, level and message; what has
happened to a unit of work has fields beside them: its run or shard, and what came of it. Results, on the standard
output, stay as they are.
"""

import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from typing_extensions import override

FORMAT = "BAE_RAY_LOG_FORMAT"
FORMATS = ("text", "json")
LEVELS = {"error": "error", "failed": "error", "warning": "warning"}
"""By the word before a line's first colon."""


class JsonLines(io.TextIOBase):
    """A stream that passes on each line as an object."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun, self._lock = stream, "", threading.Lock()

    @override
    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            for line in filter(str.strip, lines):
                self._put(LEVELS.get(line.partition(":")[0].lower(), "info"), line.strip(), {})
        return len(text)

    def event(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """Write one object."""
        with self._lock:
            self._put(level, message, fields)

    @override
    def flush(self) -> None:
        self._stream.flush()

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        return self._stream.fileno()

    def _put(self, level: str, message: str, fields: dict[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
        self._stream.write(json.dumps({**line, **fields}, ensure_ascii=False, default=str) + "\n")
        self._stream.flush()


def is_structured() -> bool:
    """Whether this process writes its log as JSON."""
    return isinstance(sys.stderr, JsonLines)


def event(message: str, level: str = "info", **fields: Any) -> None:
    """Something that a log of JSON tells; nothing where the log is text, which has lines of its own for people."""
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.event(level, message, fields)


@contextmanager
def log_as_asked() -> Iterator[None]:
    """Inside, the log has the format that the environment asks for."""
    if os.environ.get(FORMAT) != "json":
        yield
        return
    stream = sys.stderr
    sys.stderr = JsonLines(stream)
    try:
        yield
    except Exception as error:  # told in one object, before the stream is as it was
        event(f"{type(error).__name__}: {error}", "error", traceback="".join(traceback.format_exception(error)))
        raise SystemExit(1) from None
    finally:
        sys.stderr = stream
