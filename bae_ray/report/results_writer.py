"""The one writer of results: tables, pictures and a page into a folder; tables, claims and paths on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs
from rich.table import Table

from bae_ray.files import write_text
from bae_ray.locations import shown
from bae_ray.own_command import own_command
from bae_ray.report.figures import save_png, to_svg
from bae_ray.report.html import render, source
from bae_ray.report.terminal import print_tables
from bae_ray.training.results import write_csv


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a page of results is made of."""

    page: str
    """File name of the page."""
    title: str
    """Heading of the page."""
    tables: Mapping[str, pd.DataFrame]
    """By the name of their CSV file. The first one is on the page, too."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By the name of their PNG file, in the order of the page."""
    printed: Sequence[Table] = ()
    """For the terminal."""
    notes: Sequence[str] = ()
    """What a reader of the page has to know."""
    claims: Sequence[str] = ()
    """What the paper says beside what was found, a line each: on the page and on the terminal."""
    remarks: Sequence[str] = ()
    """Further lines for the terminal."""
    warning: str = ""
    """Stands above all else on the page."""
    sections: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Small tables of the page, by their heading."""
    page_table: pd.DataFrame | None = None
    """The table of the page, if it is not the first of the tables."""
    sweep: Mapping[str, Any] | None = None
    """Data of an interactive heat map."""
    links: Sequence[Path] = ()
    """Other pages."""
    registry: Path | None = None
    """A folder of runs that the workbench shows."""


def write_results(results: Results, out: Path, config_json: str) -> list[Path]:
    """Write the files of `results` into `out`; print its tables and lines, and the paths, which are returned.

    `config_json` is the resolved config, which the page shows.
    """
    for name, table in results.tables.items():
        write_csv(table, out / name)
    for name, figure in results.figures.items():
        save_png(figure, out / name)
    write_text(out / results.page, page(results, out, config_json))
    print_tables(*results.printed)
    for line in (*results.claims, *results.remarks):
        print(line)
    kinds = {"table": results.tables, "picture": results.figures, "page": (results.page,)}
    written = [(kind, out / name) for kind, names in kinds.items() for name in names]
    written += [("page", page) for page in results.links]
    for kind, path in written:
        print(f"{kind:8} {shown(path)}")
    if results.registry is not None:
        print(f"look     {own_command()} serve --registry {shown(results.registry)} --workbench")
    return [path for _, path in written]


def page(results: Results, out: Path, config_json: str) -> str:
    """The page in `out`: figures, notes, table of every run, resolved config, with nothing loaded from elsewhere.

    With the data of a sweep it has a heat map, and shows the runs of one cell at a time.
    """
    table = next(iter(results.tables.values())) if results.page_table is None else results.page_table
    return render(
        "report.html.j2",
        title=results.title,
        figures=[to_svg(figure) for figure in results.figures.values()],
        notes=[*results.notes, *results.claims],
        sections={heading: _of_page(small) for heading, small in results.sections.items()},
        columns=list(table.columns),
        rows=table.to_dict("records"),
        config=config_json,
        sweep=results.sweep,
        links=[str(page.relative_to(out)) for page in results.links],
        warning=results.warning,
        plotly=get_plotlyjs() if results.sweep else "",
        script=source("sweep.js") if results.sweep else "",
    )


def _of_page(table: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": table.to_dict("records")}
