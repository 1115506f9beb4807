"""Tables of text, .csv and .tsv, as records; every field is text."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from bae_ray.activations.reading.lines import numbered_lines, unreadable
from bae_ray.activations.reading.record_values import Doubled

_NAMES = {",": "comma", "\t": "tab"}


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows under the header, each with the line it begins at; empty lines are left out.

    A field in quotes may hold the delimiter, line ends and doubled quotes. One with a tab and a line feed is refused in
    a table of tabs: it most often begins with a quote of the text's own, and would swallow the records after it.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit cuts texts off at 128 KB
    lines = _Lines(path)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    doubled: frozenset[str] = frozenset()
    while True:
        place = f"line {lines.last + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise unreadable(
                path, f"{place} begins no row: {error}. Is a quote missing? Within quotes, write a quote twice."
            ) from error
        if not row:
            continue
        if delimiter == "\t":
            _check_swallowed(path, row, int(place.removeprefix("line ")))
        if not header:
            header, doubled = row, frozenset(name for name in row if row.count(name) > 1)
            continue
        if len(row) != len(header):
            raise unreadable(
                path,
                f"{place} has {len(row)} fields, but the header has {len(header)}. Put quotes around a text with a "
                f"{_NAMES[delimiter]} in it.",
            )
        values = Doubled(zip(header, row, strict=True))
        values.names = doubled
        yield place, values


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


class _Lines(Iterator[str]):
    """The lines of a file, and the number of the last one."""

    def __init__(self, path: Path) -> None:
        self.last = 0
        self._lines = numbered_lines(path)

    def __next__(self) -> str:
        self.last, line = next(self._lines)
        return line
