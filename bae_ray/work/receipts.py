"""Receipts: the record that a unit is finished."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bae_ray.storage import Folder

R = TypeVar("R", bound=BaseModel)


def read_receipt(folder: Folder, name: str, kind: type[R]) -> R | None:
    """The receipt in a file; None where it is missing or damaged: the unit is done again."""
    try:
        return kind.model_validate_json(folder.read(name))
    except (FileNotFoundError, ValidationError):
        return None
