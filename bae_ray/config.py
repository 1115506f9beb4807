"""What every config of the project has in common."""

import hashlib
import json
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from bae_ray.names import nearest


class Config(BaseModel):
    """Base of all configs: frozen; unknown keys, and numbers that are not finite, are refused; JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Record(BaseModel):
    """Base of what is written beside results: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """The record as the text of its file."""
        return self.model_dump_json(indent=2) + "\n"


def describe(error: ValidationError, config: type[BaseModel] | None = None) -> str:
    """The first problem of a config, in one line: the field, its value, and what was expected.

    For an unknown field of `config`, it also names the most similar fields.
    """
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden" and config is not None:
        *sections, name = map(str, first["loc"])
        return f"{where} is {first['input']!r}: {first['msg']}.{nearest(name, _fields(config, sections))}".rstrip(".")
    return f"{where} is {first['input']!r}: {first['msg']}" if where else str(first["msg"])


def _fields(config: type[BaseModel], sections: list[str]) -> list[str]:
    """Names of the fields that a config has in a section of it; parts of a union are told apart by a tag, passed by."""
    configs = [config]
    for section in sections:
        below = [one.model_fields[section].annotation for one in configs if section in one.model_fields]
        configs = [found for annotation in below for found in _configs(annotation)] or configs
    return [name for one in configs for name in one.model_fields]


def _configs(annotation: Any) -> list[type[BaseModel]]:
    """The configs that an annotation names, however deep in unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _configs(part)]


def content_hash(value: Any) -> str:
    """16 hex digits that identify a JSON-serialisable value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
