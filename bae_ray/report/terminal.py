"""Tables on the terminal."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000


def text_table(title: str, rows: Sequence[Mapping[str, object]], left: Collection[str] = ()) -> Table:
    """A table for the terminal, from rows of cells by column. Columns of words, in `left`, begin at the left."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def print_tables(*tables: Table) -> None:
    """Print each table with all its columns whole: on a narrower terminal, or in a file, its lines are longer."""
    console = Console()
    for table in tables:
        needed = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
        Console(width=max(console.width, needed)).print(table)
