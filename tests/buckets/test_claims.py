"""One process at a time in a folder, on this machine and in a bucket."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bae_ray import folder_claims as claims
from bae_ray.errors import ClaimedError, UnfinishedError
from bae_ray.folder_claims import CLAIMS, Claim, claimed
from bae_ray.storage import Folder, folder_at
from tests.bucket import Server

HOLD = """
import sys, time
from bae_ray.folder_claims import claimed
from bae_ray.storage import folder_at
with claimed(folder_at(sys.argv[1]), "a sweep"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["here", "there"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "here":
        return str(tmp_path / "runs")
    server: Server = request.getfixturevalue("server")
    return server.bare_uri(f"bucket/{tmp_path.name}")


def hold(location: str) -> subprocess.Popen[str]:
    """A process that is at work in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, location], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def of_another_machine(folder: Folder) -> Claim:
    """A claim as a process of another machine would leave it."""
    claim = Claim.of_this_process("a sweep").model_copy(update={"machine": "elsewhere", "host": "elsewhere"})
    folder.write_text(f"{CLAIMS}/{claim.owner}.json", claim.to_json())
    return claim


def test_the_second_stops_and_is_told_who_is_there_until_that_one_is_killed(location: str):
    folder, process = folder_at(location), hold(location)
    with pytest.raises(
        ClaimedError, match=rf"in use by a sweep of .* \(process {process.pid}, since 20.*stop it there"
    ):
        claimed(folder, "another").__enter__()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    with claimed(folder, "another"), claimed(folder, "a part of it") as held:
        assert held
        (name,) = folder.files(CLAIMS)
        assert json.loads(folder.read(name))["pid"] == os.getpid()
    assert time.monotonic() - began < 5
    assert folder.files(CLAIMS) == {}
    if folder.path is not None:
        assert [*folder.path.iterdir()] == []


def test_of_another_machine_what_does_not_change_is_passed_over(location: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "EXPIRES_S", 3.0)
    folder = folder_at(location)
    of_another_machine(folder)
    began = time.monotonic()
    with claimed(folder, "another"):
        assert time.monotonic() - began >= 3.0
        assert len(folder.files(CLAIMS)) == 1


def test_of_another_machine_what_changes_is_alive(location: str):
    folder = folder_at(location)
    claim, stop = of_another_machine(folder), threading.Event()

    def beat() -> None:
        while not stop.wait(0.5):
            folder.write_text(f"{CLAIMS}/{claim.owner}.json", claim.to_json())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ClaimedError, match="on elsewhere"):
            claimed(folder, "another").__enter__()
    finally:
        stop.set()
        thread.join()
    assert list(folder.files(CLAIMS)) == [f"{CLAIMS}/{claim.owner}.json"]


def test_who_is_taken_over_stops(location: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "BEAT_S", 1.0)
    folder = folder_at(location)

    def work() -> None:
        with claimed(folder, "a sweep"):
            folder.remove(CLAIMS)
            time.sleep(30)

    began = time.monotonic()
    with pytest.raises(UnfinishedError, match="taken over"):
        work()
    assert time.monotonic() - began < 20


def enter(location: str, barrier, results) -> None:
    barrier.wait()
    try:
        with claimed(folder_at(location), "a sweep"):
            results.put("held")
            time.sleep(5)
    except ClaimedError:
        results.put("refused")


@pytest.mark.slow
def test_of_those_who_come_at_once_one_stays(location: str):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=enter, args=(location, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == ["held", "refused", "refused"]
