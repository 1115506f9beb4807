"""Jobs that are made while earlier ones are done: nothing waits for the last, and what goes wrong is told at once."""

import os
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest

from bae_ray.errors import InvalidInputError
from bae_ray.work.devices import Share
from bae_ray.work.executor import Executor, Inline, WorkOrder
from bae_ray.work.ray_data import RayData

PATIENCE_S = 120.0
SHARE = Share(1, 0)

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Toucher:
    """Makes a file for each unit, and answers where it ran."""

    def __init__(self, _device: str, folder: Path) -> None:
        self._folder = folder

    def __call__(self, unit: int) -> int:
        (self._folder / str(unit)).touch()
        return os.getpid()


def awaited(file: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not file.exists():
        assert time.monotonic() < until, f"{file} was not made while later units were still to come"
        time.sleep(0.02)


def order(
    jobs: Generator[list[int], None, None], folder: Path, told: Callable[[int, int], None]
) -> WorkOrder[int, int]:
    return WorkOrder(jobs, partial(Toucher, folder=folder), told, SHARE, workers=1)


@pytest.mark.parametrize("executor", [RayData(), Inline()], ids=["ray", "inline"])
def test_units_are_done_before_the_last_one_is_made(executor: Executor, tmp_path: Path):
    def jobs() -> Generator[list[int], None, None]:
        yield [0, 1]
        for unit in range(2, 6):
            awaited(tmp_path / str(unit - 1))
            yield [unit]

    found: dict[int, int] = {}
    assert executor.run(order(jobs(), tmp_path, found.__setitem__)) == []
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert all((pid == os.getpid()) == isinstance(executor, Inline) for pid in found.values())


@pytest.mark.parametrize("executor", [RayData(), Inline()], ids=["ray", "inline"])
def test_what_making_them_raises_ends_the_work(executor: Executor, tmp_path: Path):
    found: dict[int, int] = {}

    def jobs() -> Generator[list[int], None, None]:
        yield [0]
        awaited(tmp_path / "0")
        raise InvalidInputError("the corpus ends in the middle of a record")

    with pytest.raises(InvalidInputError, match="in the middle of a record"):
        executor.run(order(jobs(), tmp_path, found.__setitem__))
    assert set(found) <= {0}


@pytest.mark.parametrize("executor", [RayData(), Inline()], ids=["ray", "inline"])
def test_no_more_are_made_once_an_answer_ends_the_work(executor: Executor, tmp_path: Path):
    made: list[int] = []

    def jobs() -> Generator[list[int], None, None]:
        for unit in range(10**9):
            made.append(unit)
            yield [unit]
            time.sleep(0.01)

    def told(unit: int, answer: int) -> None:
        raise InvalidInputError("the disk is full")

    with pytest.raises(InvalidInputError, match="the disk is full"):
        executor.run(order(jobs(), tmp_path, told))
    before = len(made)
    time.sleep(0.3)
    assert len(made) == before


def test_nothing_to_do_is_soon_done(tmp_path: Path):
    def jobs() -> Generator[list[int], None, None]:
        yield from ()

    assert RayData().run(order(jobs(), tmp_path, lambda _unit, _answer: pytest.fail("nothing was asked"))) == []
