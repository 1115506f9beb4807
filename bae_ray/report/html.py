"""Pages: self-contained files, made of the templates in this folder."""

from importlib.resources import files
from typing import Any

import jinja2

from bae_ray.report.numbers import number


def render(template: str, **values: Any) -> str:
    """The page that a template makes of these values. In it, `value | shown` writes a value of a table."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = lambda value: number(value) if isinstance(value, float) else str(value)
    return environment.from_string(source(template)).render(values)


def source(name: str) -> str:
    """The text of a file in this folder: a template or a script."""
    return files("bae_ray.report").joinpath(name).read_text(encoding="utf-8")
