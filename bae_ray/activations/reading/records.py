"""The records of a corpus file, one after another, whatever its format."""

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.activations.reading import json_files
from bae_ray.activations.reading.formats import kind_of, numbered_lines, unreadable
from bae_ray.activations.reading.record_values import Doubled
from bae_ray.errors import UnreadableFileError

PARQUET_ROWS = 1024
_DELIMITERS = {",": "comma", "\t": "tab"}


class Record(NamedTuple):
    """One record, and where it stands."""

    place: str
    """Its line or row, for messages."""
    values: Mapping[str, Any]


def records(path: Path, columns: Sequence[str], document: bool = False) -> Iterator[Record]:
    """The records of a file in order, with those of these columns that it has, or more.

    Of a .txt file each line is a record, or, with `document`, the whole file; the text is in the first of the columns.
    Raises `UnreadableFileError` with the place of what is wrong.
    """
    if not path.stat().st_size:  # nothing in any format, though it is no file of most
        return iter(())
    kind = kind_of(path)
    match kind.format if kind else None:
        case "txt":
            found = _document(path) if document else _lines(path)
            return (Record(place, {columns[0]: text}) for place, text in found)
        case "jsonl":
            found = json_files.lines(path)
        case "json":
            found = json_files.values(path)
        case "csv":
            found = _table_rows(path, ",")
        case "tsv":
            found = _table_rows(path, "\t")
        case "parquet":
            return _parquet(path, columns)
        case _:
            raise AssertionError(f"{path} is of no format that is read")
    return (Record(*record) for record in found)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in numbered_lines(path):
        yield f"line {number}", line.removesuffix("\n").removesuffix("\r")


def _document(path: Path) -> Iterator[tuple[str, str]]:
    if text := "".join(line for _, line in numbered_lines(path)):
        yield "line 1", text


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        first = 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=there):
            yield from arrow_records(pa.Table.from_batches([batch]), f"corpus file {path}", first)
            first += len(batch)


def arrow_records(table: pa.Table, where: str, first: int) -> Iterator[Record]:
    """The rows of a table, of which the first has this number. Raises `UnreadableFileError` where one is no UTF-8."""
    try:
        found = table.to_pylist()
    except UnicodeDecodeError:
        found = map(partial(_row, table, where, first), range(len(table)))
    for number, values in enumerate(found, start=first):
        yield Record(_row_place(number), values)


def _row(table: pa.Table, where: str, first: int, number: int) -> dict[str, Any]:
    try:
        return table.slice(number, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise UnreadableFileError(
            f"{where}, {_row_place(first + number)}: byte {error.start} of a text, 0x{error.object[error.start]:02x}, "
            "is no UTF-8. Write the texts as UTF-8."
        ) from error


def _row_place(number: int) -> str:
    return f"row {number} (counted from 0)"


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a .csv or .tsv file under the header, each with the line it begins at; empty lines are left out.

    A field in quotes may hold the delimiter, line ends and doubled quotes. One with a tab and a line feed is refused in
    a table of tabs: it most often begins with a quote of the text's own, and would swallow the records after it.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit cuts texts off at 128 KB
    rows = csv.reader((line for _, line in numbered_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    doubled: frozenset[str] = frozenset()
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise unreadable(
                path, f"line {line} begins no row: {error}. Is a quote missing? Within quotes, write a quote twice."
            ) from error
        if not row:
            continue
        if delimiter == "\t":
            _check_swallowed(path, row, line)
        if not header:
            header, doubled = row, frozenset(name for name in row if row.count(name) > 1)
            continue
        if len(row) != len(header):
            raise unreadable(
                path,
                f"line {line} has {len(row)} fields, but the header has {len(header)}. Put quotes around a text with a "
                f"{_DELIMITERS[delimiter]} in it.",
            )
        values = Doubled(zip(header, row, strict=True))
        values.names = doubled
        yield f"line {line}", values


def _check_swallowed(path: Path, row: list[str], line: int) -> None:
    """Raise `UnreadableFileError` for a field with a tab and a line feed, of a row that begins at a line."""
    for field in row:
        if "\t" in field and "\n" in field:
            raise unreadable(
                path,
                f"line {line} opens a quote that goes on over a tab and the line's end, to line "
                f"{line + field.count(chr(10))}, and may have swallowed records. Write a quote that belongs to a text "
                'twice and the text in quotes (""" begins one with "); give texts with tabs and line feeds as .jsonl.',
            )
        line += field.count("\n")
