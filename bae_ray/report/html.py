"""The report of a sweep: one self-contained page."""

from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd

from bae_ray.files import write_text
from bae_ray.report.figures import entropy_figure, to_svg


def write_report(table: pd.DataFrame, path: str | Path, title: str, config_json: str) -> None:
    """Write the page: figure, table of every run, and the resolved config, with nothing loaded from elsewhere."""
    source = files("bae_ray.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    page = template.render(
        title=title,
        figure=to_svg(entropy_figure(table)),
        columns=list(table.columns),
        rows=[[_cell(value) for value in row] for row in table.itertuples(index=False)],
        config=config_json,
    )
    write_text(Path(path), page)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
