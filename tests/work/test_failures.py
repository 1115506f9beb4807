import json
from pathlib import Path

from pydantic import BaseModel

from bae_ray.errors import InvalidInputError
from bae_ray.storage import folder_at
from bae_ray.work.receipts import listed, traceback_of, write_failures


class Failure(BaseModel):
    name: str


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_only_unexpected_errors_have_a_traceback():
    assert traceback_of(raised(InvalidInputError("too large"))) == ""
    assert traceback_of(raised(OSError(28, "No space left on device"))) == ""
    assert "in raised\n    raise error\nZeroDivisionError: by 0" in traceback_of(raised(ZeroDivisionError("by 0")))


def test_the_first_failures_are_listed():
    assert listed(["a: bad"], 3, "parts") == "1 of 3 parts were not written:\n  a: bad"
    assert listed([*range(12)], 20, "shards").splitlines()[-2:] == ["  9", "  and 2 more"]


def test_failures_of_an_earlier_run_go(tmp_path: Path):
    write_failures(folder_at(tmp_path), [Failure(name="ä")])
    assert json.loads((tmp_path / "failures.json").read_text()) == {"failures": [{"name": "ä"}]}
    write_failures(folder_at(tmp_path), [])
    assert not any(tmp_path.iterdir())
