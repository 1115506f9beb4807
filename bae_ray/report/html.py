"""The page of results: one self-contained file."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from bae_ray.files import write_text
from bae_ray.report.figures import to_svg
from bae_ray.report.numbers import number


def write_report(
    path: str | Path,
    title: str,
    figures: list[Figure],
    notes: list[str],
    table: pd.DataFrame,
    config_json: str,
    sweep: Mapping[str, Any] | None = None,
    links: Sequence[str] = (),
    warning: str = "",
) -> None:
    """Write the page: figures, notes, table of every run, resolved config, with nothing loaded from elsewhere.

    `sweep` is what `sweep_data` gives: with it the page has a heat map, and shows the runs of one cell at a time.
    `links` are paths of other pages, relative to this one.
    `warning` stands above all else.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _source("report.html.j2")
    )
    page = template.render(
        title=title,
        figures=[to_svg(figure) for figure in figures],
        notes=notes,
        columns=list(table.columns),
        rows=[_row(row, sweep is not None) for row in table.to_dict("records")],
        config=config_json,
        sweep=sweep,
        links=links,
        warning=warning,
        plotly=_plotly() if sweep else "",
        script=_source("sweep.js") if sweep else "",
    )
    write_text(Path(path), page)


def _row(row: dict[Any, Any], by_cell: bool) -> dict[str, Any]:
    """A row of the table, and of a sweep what tells which cell and run it is of."""
    named = {key: str(row.get(key, "")) for key in ("layer", "position", "run")} if by_cell else {}
    return {"cells": [_cell(value) for value in row.values()], **named}


def _source(name: str) -> str:
    return files("bae_ray.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
