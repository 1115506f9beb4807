"""The records of a corpus as Arrow tables, which are sent to the tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from bae_ray.activations.reading.formats import FAILURES
from bae_ray.activations.reading.record_values import Doubled, as_chat, as_label, as_text
from bae_ray.activations.reading.records import Record, records
from bae_ray.errors import UnreadableFileError, first_line

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


def values_of(record: Record, columns: Columns, where: str) -> list[str | None]:
    """The text of a record, and its label if one is asked for. Raises `UnreadableFileError` for invalid ones."""
    found = []
    for name, as_value in zip(columns.names, (as_chat if columns.chat else as_text, as_label), strict=False):
        if isinstance(record.values, Doubled) and name in record.values.names:
            raise UnreadableFileError(f"{where}, {record.place}, has the column '{name}' twice. Leave one out.")
        try:
            found.append(as_value(record.values.get(name)))
        except ValueError as error:
            raise UnreadableFileError(f"column '{name}' of {where}, {record.place}, {error}.") from error
    return found


def file_blocks(path: Path, columns: Columns) -> Iterator[pa.Table]:
    """The texts of a file, as `blocks` gives them."""
    yield from blocks(records(path, columns.names, columns.document), columns, f"corpus file {path}")


def blocks(found: Iterator[Record], columns: Columns, where: str) -> Iterator[pa.Table]:
    """Tables of text, and, where labels are asked for or the texts are chats, label and place; and `problem`.

    A missing text or label is null. An unreadable record ends the tables: the last row then says why in `problem`, so
    that those before it can be used.
    """
    names = [TEXT, *([LABEL] if columns.label is not None else []), PLACE, PROBLEM]
    placed = columns.label is not None or columns.chat
    rows: list[list[str | None]] = []
    characters = 0

    def table() -> pa.Table:
        by_name = dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))
        kept = {name: pa.array(column, pa.string()) for name, column in by_name.items() if name != PLACE or placed}
        return pa.table(kept)

    try:
        for record in found:
            values = values_of(record, columns, where)
            rows.append([*values, f"{where}, {record.place}", None])
            characters += len(values[0] or "")
            if len(rows) >= ROWS or characters >= CHARACTERS:
                yield table()
                rows, characters = [], 0
    except UnreadableFileError as error:
        rows.append([*[None] * (len(names) - 2), "", str(error)])
    except FAILURES as error:
        rows.append([*[None] * (len(names) - 2), "", f"{where} cannot be read to its end: {first_line(error)}"])
    yield table()
