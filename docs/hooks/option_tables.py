"""What configs hold, as rows of tables: read from the pydantic models that the command line is made of."""

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


class Option(NamedTuple):
    """A field of a config, however deep."""

    path: tuple[str, ...]
    """Names of the fields that lead to it, its own last."""
    values: str
    """What it may be."""
    default: Any
    """PydanticUndefined where it has to be given."""
    text: str
    """What it is."""
    section: type[BaseModel]
    """The config that it is a field of."""

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        name = ".".join(self.path).replace("_", "-")
        if self.values == "flag":
            return f"--{name}, --{'.'.join([*name.split('.')[:-1], 'no-' + name.split('.')[-1]])}"
        return f"--{name}"


def options(config: type[BaseModel], given: BaseModel | None = None, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """All options of a config, those of the configs in it after its own; defaults are the values of `given`."""
    deeper: list[tuple[type[BaseModel], BaseModel | None, str]] = []
    for name, field in config.model_fields.items():
        value = getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        held = type(value) if isinstance(value, BaseModel) else held_config(field.annotation)
        if held is not None:
            deeper.append((held, value if isinstance(value, BaseModel) else None, name))
            continue
        yield Option((*path, name), spelled(field.annotation), value, field.description or "", config)
    for held, value, name in deeper:
        yield from options(held, value, (*path, name))


def held_config(annotation: Any) -> type[BaseModel] | None:
    """The config that an annotation is; None where it is something else."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def spelled(annotation: Any) -> str:
    """What a value may be, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return spelled(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(spelled(part) for part in parts if part is not type(None))
    if origin in (tuple, list):
        return f"{spelled(parts[0])} ..."
    if origin in (dict, Mapping):
        return f"{spelled(parts[0])} to {spelled(parts[1])}"
    names = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path", type(None): "nothing"}
    return names.get(annotation) or getattr(annotation, "__name__", str(annotation))


def written(value: Any) -> str:
    """A default as one writes it."""
    if value is PydanticUndefined:
        return "**required**"
    if value is None or value in ((), "", {}):
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, (tuple, list, range)):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value}`"


def cell(text: str) -> str:
    """Text as it stands in a cell of a table, letter for letter."""
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "|*[]`_" else letter for letter in escaped)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table, its cells being markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
