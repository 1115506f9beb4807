"""The report of a sweep: one self-contained page."""

from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from bae_ray.files import write_text
from bae_ray.report.figures import to_svg


def write_report(
    path: str | Path, title: str, figures: list[Figure], notes: list[str], table: pd.DataFrame, config_json: str
) -> None:
    """Write the page: figures, notes, table of every run, resolved config, with nothing loaded from elsewhere."""
    source = files("bae_ray.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    page = template.render(
        title=title,
        figures=[to_svg(figure) for figure in figures],
        notes=notes,
        columns=list(table.columns),
        rows=[[_cell(value) for value in row] for row in table.itertuples(index=False)],
        config=config_json,
    )
    write_text(Path(path), page)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
