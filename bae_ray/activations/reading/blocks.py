"""The records of a corpus as Arrow tables, which are sent to the tokenizer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from bae_ray.activations.reading.formats import FAILURES, reason
from bae_ray.activations.reading.record_values import Doubled, as_chat, as_label, as_text
from bae_ray.activations.reading.records import Record, records
from bae_ray.errors import UnreadableFileError

ROWS, CHARACTERS = 2048, 1 << 22
"""Largest numbers of rows and of characters of a table."""
TEXT, LABEL, PLACE, PROBLEM = "text", "label", "place", "problem"


class Columns(NamedTuple):
    """The columns that are read from each record."""

    text: str
    """Name of the column of the texts."""
    label: str | None = None
    """Name of the column of the labels."""
    chat: bool = False
    """Whether the texts are lists of messages, kept as JSON."""
    document: bool = False
    """Whether each .txt file is one text."""

    @property
    def names(self) -> list[str]:
        """Names of the required columns."""
        return [self.text, *([self.label] if self.label is not None else [])]


class Row(NamedTuple):
    """The values of a record."""

    text: str | None
    label: str | None


def row_of(record: Record, columns: Columns, where: str) -> Row:
    """The values of a record. Raises `UnreadableFileError` for invalid ones."""
    read: dict[str, Callable[[object], str | None]] = {columns.text: as_chat if columns.chat else as_text}
    if columns.label is not None:
        read[columns.label] = as_label
    found = []
    for name, as_value in read.items():
        if isinstance(record.values, Doubled) and name in record.values.names:
            raise UnreadableFileError(f"{where}, {record.place}, has the column '{name}' twice. Leave one out.")
        try:
            found.append(as_value(record.values.get(name)))
        except ValueError as error:
            raise UnreadableFileError(f"column '{name}' of {where}, {record.place}, {error}.") from error
    return Row(found[0], found[1] if columns.label is not None else None)


def file_blocks(path: Path, columns: Columns) -> Iterator[pa.Table]:
    """The texts of a file, as `blocks` gives them."""
    yield from blocks(records(path, columns.names, columns.document), columns, f"corpus file {path}")


def blocks(found: Iterator[Record], columns: Columns, where: str) -> Iterator[pa.Table]:
    """Tables of text, and, where labels are asked for or the texts are chats, label and place; and `problem`.

    A missing text or label is null. An unreadable record ends the tables: the last row then says why in `problem`, so
    that those before it can be used.
    """
    rows = _Rows(columns)
    problem = None
    try:
        for record in found:
            rows.add(row_of(record, columns, where), f"{where}, {record.place}")
            if rows.full:
                yield rows.table()
                rows = _Rows(columns)
    except UnreadableFileError as error:
        problem = str(error)
    except FAILURES as error:
        problem = f"{where} cannot be read to its end: {reason(error)}"
    yield rows.table(problem)


class _Rows:
    """Rows that become a table."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rows: list[Row] = []
        self._places: list[str] = []
        self._characters = 0

    def add(self, row: Row, place: str) -> None:
        self._rows.append(row)
        self._places.append(place)
        self._characters += len(row.text or "")

    @property
    def full(self) -> bool:
        return len(self._rows) >= ROWS or self._characters >= CHARACTERS

    def table(self, problem: str | None = None) -> pa.Table:
        """The rows; one more with the problem, if there is one."""
        if problem is not None:
            self.add(Row(None, None), "")
        columns = {TEXT: pa.array([row.text for row in self._rows], pa.string())}
        if self._columns.label is not None:
            columns[LABEL] = pa.array([row.label for row in self._rows], pa.string())
        if self._columns.label is not None or self._columns.chat:
            columns[PLACE] = pa.array(self._places, pa.string())
        problems = [None] * (len(self._rows) - (problem is not None)) + [problem] * (problem is not None)
        return pa.table({**columns, PROBLEM: pa.array(problems, pa.string())})
