"""What is told of units: the receipt of one that is finished; of those that failed, tracebacks, a list and a file."""

import json
import traceback
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bae_ray.errors import BaeRayError
from bae_ray.storage import Folder

FAILURES = "failures.json"
MAX_SHOWN = 10

R = TypeVar("R", bound=BaseModel)


def read_receipt(folder: Folder, name: str, kind: type[R]) -> R | None:
    """The receipt in a file; None where it is missing or damaged: the unit is done again."""
    try:
        return kind.model_validate_json(folder.read(name))
    except (FileNotFoundError, ValidationError):
        return None


def traceback_of(error: Exception) -> str:
    """Where an unexpected error arose; nothing for an error whose message says all."""
    if isinstance(error, BaeRayError | OSError):
        return ""
    return "".join(traceback.format_exception(error))


def listed(failures: Sequence[object], total: int, units: str) -> str:
    """How many of the units failed, and the first of them, a line each."""
    more = [f"and {len(failures) - MAX_SHOWN} more"] if len(failures) > MAX_SHOWN else []
    head = f"{len(failures)} of {total} {units} were not written:"
    return "\n  ".join([head, *map(str, failures[:MAX_SHOWN]), *more])


def write_failures(folder: Folder, failures: Sequence[BaseModel]) -> None:
    """Write down every unit that failed in this run; where none did, the file of an earlier run goes."""
    if failures:
        records = [failure.model_dump(mode="json") for failure in failures]
        folder.write_text(FAILURES, json.dumps({"failures": records}, indent=2, ensure_ascii=False) + "\n")
    else:
        folder.remove_file(FAILURES)
