"""Parsing the axes and conditions of a grid, which are texts or mappings."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bae_ray.autoencoders.architectures import every_architecture
from bae_ray.errors import InvalidInputError
from bae_ray.names import nearest
from bae_ray.training.config import TrainingConfig

CELL_FIELDS = ("layer", "position", "site")
"""Fields of a condition besides those of the configs."""


class Setting(NamedTuple):
    """A field of the configs and its value in one run."""

    field: str
    value: Any

    def __str__(self) -> str:
        return f"{self.field}={self.value}"


Settings = tuple[Setting, ...]


class Range(NamedTuple):
    """A field of the configs and the range of its values; whole numbers if both ends are."""

    field: str
    low: float
    high: float
    log: bool


def as_texts(entries: Any) -> Any:
    """Axes or conditions from Python or YAML, each as one text.

    An entry is a text, or a mapping from fields to values or lists of values; a single mapping is one entry per field.
    Other entries are left to the validation of the config.
    """
    if isinstance(entries, Mapping):
        entries = [{field: values} for field, values in entries.items()]
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        return entries
    return tuple(_as_text(entry) for entry in entries)


def as_conditions(entries: Any) -> Any:
    """Conditions, each as one text; a single mapping is one condition over all its fields."""
    return as_texts([entries] if isinstance(entries, Mapping) else entries)


def parse_axis(text: str) -> list[Settings]:
    """The points of one axis: FIELD=VALUE,VALUE,..., or several fields whose values go together, first with first.

    Raises `InvalidInputError` for an unknown field, and where fields that go together have different numbers of values.
    """
    columns = [[Setting(field, value) for value in values] for field, values in _parse("axis", text, _fields())]
    if len({len(column) for column in columns}) > 1:
        counts = " and ".join(f"{column[0].field} has {len(column)}" for column in columns)
        raise InvalidInputError(f"axis '{text}': fields of one axis go together, but {counts} values.")
    return list(zip(*columns, strict=True))


def parse_condition(text: str) -> dict[str, list[Any]]:
    """The fields of a condition with their values: FIELD=VALUE,... FIELD=VALUE,..."""
    return dict(_parse("condition", text, [*CELL_FIELDS, *_fields()]))


def parse_range(text: str) -> Range:
    """The range of a field. Raises `InvalidInputError` for an invalid one."""
    field, _, ends = text.partition("=")
    log = ends.startswith("log:")
    low, dots, high = (_value(end) for end in ends.removeprefix("log:").partition(".."))
    field = _known("range", field, _fields())
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not dots or not numbers or not low < high or (log and low <= 0):
        raise InvalidInputError(
            f"range '{text}' is not FIELD=LOW..HIGH, or FIELD=log:LOW..HIGH with LOW above 0, such as "
            "training.lr=log:1e-4..1e-2."
        )
    return Range(field, low, high, log)


def _as_text(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    lists = {field: list(values) if isinstance(values, list | tuple) else [values] for field, values in entry.items()}
    # YAML takes 1e-3 for a text; on the command line it is a number.
    numbers = {field: [_value(v) if isinstance(v, str) else v for v in values] for field, values in lists.items()}
    return " ".join(f"{field}={json.dumps(values)}" for field, values in numbers.items())


def _fields() -> list[str]:
    """Fields that an axis may have."""
    architecture = dict.fromkeys(field for one in every_architecture().values() for field in one.config.model_fields)
    return [
        *(f"training.{name}" for name in TrainingConfig.model_fields),
        *(f"autoencoder.{name}" for name in architecture),
    ]


def _known(what: str, given: str, known: list[str]) -> str:
    """The field with this name, written as in Python or as a flag, with or without its dashes."""
    field = given.removeprefix("--").replace("-", "_")
    if field not in known:
        hint = nearest(field, known) or f" Fields: {', '.join(known)}."
        raise InvalidInputError(f"{what} '{given}': unknown field.{hint}")
    return field


def _parse(what: str, text: str, known: list[str]) -> list[tuple[str, list[Any]]]:
    parsed: list[tuple[str, list[Any]]] = []
    for part in map(str.strip, re.split(r" (?=[^ ]*=)", text)):  # before each field: a list may hold spaces
        given, equals, listed = part.partition("=")
        if not (equals and listed):
            raise InvalidInputError(f"{what} '{part}' is not FIELD=VALUE,VALUE,..., such as training.lr=1e-3,3e-3.")
        field = _known(what, given, known)
        if field in (other for other, _ in parsed):
            raise InvalidInputError(f"axis {field} is given more than once: give all its values in one.")
        parsed.append((field, _values(listed)))
    return parsed


def _values(listed: str) -> list[Any]:
    whole = _value(listed)
    return whole if isinstance(whole, list) else [_value(value) for value in listed.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
