"""Whether a replica of the texts can be placed; where Ray and Serve do not answer, nobody waits for long."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
import ray
from ray.serve.handle import DeploymentHandle

from bae_ray.serving.config import TextsConfig
from bae_ray.serving.monitoring import scrape
from bae_ray.serving.monitoring.scrape import ReplicaWatch
from bae_ray.serving.ray_serve import placement as placement_module
from bae_ray.serving.ray_serve.placement import Placement, Replicas
from bae_ray.serving.time_limits import THREAD, SlowError

HANDLE = cast(DeploymentHandle, None)


@pytest.fixture
def hung() -> Iterator[Any]:
    """A call of a controller that does not answer until the test has ended."""
    ended = threading.Event()

    def call(*_: object) -> None:
        ended.wait(30)

    yield call
    ended.set()


def held() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


def test_a_controller_that_hangs_holds_one_thread_and_nobody_up(monkeypatch: pytest.MonkeyPatch, hung: Any):
    monkeypatch.setattr(placement_module, "replicas", hung)
    monkeypatch.setattr(placement_module, "LOOK_S", 0.2)
    monkeypatch.setattr(placement_module, "FRESH_S", 0)
    before = held()

    async def ask() -> None:
        placement = Placement(HANDLE, TextsConfig(), [])
        assert [await placement.refusal() for _ in range(5)] == [None] * 5, "then Serve is asked"

    started = time.monotonic()
    asyncio.run(ask())  # which waits for the threads that it has lent
    assert time.monotonic() - started < 5
    assert held() <= before + 1


def test_a_scrape_of_a_ray_that_hangs_holds_one_thread_and_ends(monkeypatch: pytest.MonkeyPatch, hung: Any):
    monkeypatch.setattr(scrape, "living", hung)
    monkeypatch.setattr(scrape, "LOOK_TIMEOUT_S", 0.2)
    before = held()

    async def ask() -> None:
        watch = ReplicaWatch({"encoders": HANDLE})
        for _ in range(5):
            with pytest.raises(SlowError):
                await watch.new()

    started = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - started < 5
    assert held() <= before + 1


def test_each_replica_has_its_own_time_to_start(monkeypatch: pytest.MonkeyPatch):
    """However long ago another one was seen to start, and however rarely texts are asked for."""
    now, replica = 1000.0, "a"
    monkeypatch.setattr(placement_module, "replicas", lambda _: Replicas(0, 1))
    monkeypatch.setattr(placement_module, "living", lambda _: {replica})
    monkeypatch.setattr(placement_module, "only_machine", lambda: {"CPU": 1.0, "GPU": 0.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 0.0})
    monkeypatch.setattr(placement_module.time, "monotonic", lambda: now)
    placement = Placement(HANDLE, TextsConfig(), [])
    assert placement._look() is None
    now, replica = now + 3600, "b"
    assert placement._look() is None, "this one starts only now"
    now += placement_module.START_S - 1
    assert placement._look() is None
    now += 2
    reason = placement._look()
    assert reason is not None
    assert "none can be placed" in reason
