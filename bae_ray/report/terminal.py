"""Tables on the terminal."""

import string
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000

Column = str | Callable[[dict[str, Any]], object]
"""What a column shows of a row: a template such as "{bits:.1f}", where a number that is not known is a dash; or the
result of a function."""


class _Templates(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return "-" if pd.isna(value) else super().format_field(value, format_spec)


def table_of(title: str, table: pd.DataFrame, columns: Mapping[str, Column], left: Collection[str] = ()) -> Table:
    """A table for the terminal, with a row for each of `table`. Columns of words, in `left`, begin at the left."""
    form = _Templates().vformat
    rows = [
        {name: form(shown, (), row) if isinstance(shown, str) else shown(row) for name, shown in columns.items()}
        for row in ({str(name): value for name, value in row.items()} for row in table.to_dict("records"))
    ]
    return text_table(title, rows, left)


def text_table(title: str, rows: Sequence[Mapping[str, object]], left: Collection[str] = ()) -> Table:
    """A table for the terminal, from rows of cells by column. Columns of words, in `left`, begin at the left."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def list_of(title: str, values: Mapping[str, str]) -> Table:
    """A table of names and their values, for the terminal."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, value)
    return table


def print_tables(*tables: Table) -> None:
    """Print each table with all its columns whole: on a narrower terminal, or in a file, its lines are longer."""
    console = Console()
    for table in tables:
        needed = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
        Console(width=max(console.width, needed)).print(table)
