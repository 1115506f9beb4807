"""Tables of text, .csv and .tsv, as records; every field is text."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from bae_ray.activations.reading.lines import numbered_lines, unreadable
from bae_ray.activations.reading.values import Doubled

_NAMES = {",": "comma", "\t": "tab"}


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows under the header, each with the line it begins at; empty lines are left out.

    A field in quotes may hold the delimiter, line ends and doubled quotes.
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


class _Lines(Iterator[str]):
    """The lines of a file, and the number of the last one."""

    def __init__(self, path: Path) -> None:
        self.last = 0
        self._lines = numbered_lines(path)

    def __next__(self) -> str:
        self.last, line = next(self._lines)
        return line
