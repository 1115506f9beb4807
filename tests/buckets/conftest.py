"""A bucket for each module, and a cache for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket import Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "requests.log") as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: what an earlier one has copied is not there."""
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
