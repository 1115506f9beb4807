"""What every config of the project has in common."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys and numbers that are not finite refused, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def describe(error: ValidationError) -> str:
    """The first problem of a config, in one line: the field, its value, and what was expected."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where} is {first['input']!r}: {first['msg']}" if where else str(first["msg"])


def content_hash(value: Any) -> str:
    """16 hex digits that identify a JSON-serialisable value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
