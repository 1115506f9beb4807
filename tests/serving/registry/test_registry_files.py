"""Whatever lies in a registry, it neither hangs nor fills the memory, and breaks no other encoder."""

import asyncio
import os
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from bae_ray.autoencoders import load_autoencoder
from bae_ray.errors import CheckpointError, InvalidInputError
from bae_ray.serving.http import feature_cards
from bae_ray.serving.registry import registry as registry_module
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.registry.registry import Registry
from bae_ray.serving.time_limits import THREAD, SlowError, TimeLimit
from tests.serving.support import make_encoder, make_run, until, with_tree

T = TypeVar("T")
FILES = ("config.json", "model.safetensors", "tree.safetensors", "result.json")
LIMIT_S = 20


def within(call: Callable[[], T]) -> T:
    """What the call gives; a failure where it hangs."""
    given: list[T] = []
    thread = threading.Thread(target=lambda: given.append(call()), daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert given, f"no answer within {LIMIT_S} s"
    return given[0]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(path.parent, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/{path.name}")  # its own path may be too long
        os.close(here)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10 << 40)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def outside(path: Path) -> None:
    shutil.copy(path.with_name("kept"), path.parents[2] / "outside")
    path.symlink_to(path.parents[2] / "outside")


@pytest.fixture
def enough_memory() -> Iterator[None]:
    """Of what may be reserved, no more than 2 GiB beyond what is."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [fifo, unix_socket, endless, sparse, folder, loop, outside])
def test_what_is_no_file_is_broken_alone(enough_memory: None, tmp_path: Path, name: str, make: Callable[[Path], None]):
    registry = tmp_path / "registry"
    for encoder in ("bad", "good"):
        make_run(registry / encoder, "tiny")
        make_encoder(registry / encoder, 1, change=with_tree)
    (registry / "bad" / name).rename(registry / "bad" / "kept")
    make(registry / "bad" / name)
    for follow in (False, True):
        found = within(lambda follow=follow: Registry(registry, follow).look())
        assert found["good"].config is not None
        reason = found["bad"].reason
        if make is outside and follow:
            assert found["bad"].config is not None
            continue
        assert found["bad"].config is None
        assert name in reason
        assert str(tmp_path) not in reason
        if make in (outside, endless) and not follow:
            assert "--follow-links" in reason


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("make", [fifo, unix_socket, endless, folder])
def test_loading_an_autoencoder_does_not_wait_for_a_writer(tmp_path: Path, name: str, make: Callable[[Path], None]):
    make_encoder(tmp_path / "one", change=with_tree)
    (tmp_path / "one" / name).unlink()
    make(tmp_path / "one" / name)

    def load() -> str:
        with pytest.raises(CheckpointError) as error:
            load_autoencoder(tmp_path / "one")
        return str(error.value)

    assert f"{name} is a" in within(load)


def test_cards_are_read_only_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_encoder(tmp_path / "one")
    fifo(tmp_path / "one" / "cards.parquet")
    entry = Registry(tmp_path).look()["one"]
    assert within(lambda: (asyncio.run(feature_cards.find_card(entry, 3)),)) == (None,)
    assert "is a FIFO" in caplog.text


def test_links_are_followed_within_the_registry_only(tmp_path: Path):
    registry = tmp_path / "registry"
    make_encoder(registry / "one")
    make_encoder(tmp_path / "other")
    (registry / "alias").symlink_to("one")
    (registry / "out").symlink_to(tmp_path / "other")
    (registry / "up").symlink_to("../other")
    (registry / "nowhere").symlink_to("none")
    (tmp_path / "linked").symlink_to(registry)
    for folder_ in (registry, tmp_path / "linked"):
        found = Registry(folder_).look()
        assert {name: entry.config is None for name, entry in found.items()} == {
            "alias": False, "one": False, "out": True, "up": True,
        }  # fmt: skip
        assert "out is a link that leads out of the registry" in found["out"].reason
        assert all(entry.config for entry in Registry(folder_, follow_links=True).look().values())
    # Cards are looked for with each request for a feature, and may come later.
    watched = Registry(registry)
    assert watched.look()["one"].config is not None
    (tmp_path / "cards").write_bytes(b"")
    (registry / "one" / "cards.parquet").symlink_to(tmp_path / "cards")
    assert "cards.parquet is a link" in watched.look()["one"].reason
    (registry / "one" / "cards.parquet").unlink()
    assert watched.look()["one"].config is not None


def test_weights_of_more_bytes_than_allowed_are_broken(tmp_path: Path):
    make_encoder(tmp_path / "one")
    size = (tmp_path / "one" / "model.safetensors").stat().st_size
    assert Registry(tmp_path, most=size).look()["one"].config is not None
    assert f"has {size} bytes; expected at most {size - 1}" in Registry(tmp_path, most=size - 1).look()["one"].reason


def threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


class Disk:
    """Reads the encoders of a registry, of which some wait at a FIFO, until something is written into it."""

    def __init__(self, path: Path, stuck: tuple[str, ...]) -> None:
        self._path, self.stuck, self.waiting, self._read = path, stuck, 0, registry_module.read_entry
        fifo(path)

    def read(self, encoder_id: str, *given) -> Entry:
        if encoder_id in self.stuck:
            self.waiting += 1
            self._path.read_bytes()
        return self._read(encoder_id, *given)

    def answer(self) -> None:
        self.stuck = ()
        with suppress(OSError):  # there is none who reads any more
            while True:
                os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
                time.sleep(0.05)


def test_a_disk_that_does_not_answer_holds_up_no_other_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"{letter}{number}" for letter in "ab" for number in range(12)]
    for name in names:
        make_encoder(tmp_path / "registry" / name)
    stuck = tuple(names[1::2])
    disk = Disk(tmp_path / "disk", stuck)
    monkeypatch.setattr(registry_module, "read_entry", disk.read)
    monkeypatch.setattr(registry_module, "ENTRY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(registry_module, "LOOK_TIMEOUT_S", 1.0)
    before = threads()
    found = Registry(tmp_path / "registry")
    started = time.monotonic()
    seen = within(found.look)
    assert time.monotonic() - started < 5, "each has waited its whole time"
    assert {name for name, entry in seen.items() if entry.config is None} == set(stuck)
    assert "takes more than" in seen[stuck[0]].reason
    started = time.monotonic()
    for _ in range(5):
        assert within(found.look)[stuck[0]].config is None
    assert time.monotonic() - started < 1, "what is stuck is waited for once"
    assert threads() <= before + len(stuck) + 1, "each call that is stuck has a thread, and no more"
    assert disk.waiting == len(stuck)
    disk.answer()
    until(lambda: all(entry.config for entry in found.look().values()))


def test_an_encoder_that_is_known_is_served_on_while_its_disk_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    make_encoder(tmp_path / "registry" / "one")
    monkeypatch.setattr(registry_module, "ENTRY_TIMEOUT_S", 0.5)
    found = Registry(tmp_path / "registry")
    before = found.look()["one"]
    disk = Disk(tmp_path / "disk", ("one",))
    monkeypatch.setattr(registry_module, "read_entry", disk.read)
    after = make_encoder(tmp_path / "registry" / "one", 2)
    for _ in range(3):
        assert within(found.look)["one"] == before
    assert caplog.text.count("one is served as it was") == 1
    disk.answer()
    until(lambda: found.look()["one"].version != before.version)
    assert found.known["one"].config == after.config


def test_a_time_limit_passes_on_what_calls_give_and_raise(tmp_path: Path):
    time_limit = TimeLimit(0.2)
    assert time_limit.call("a", lambda: 3) == 3
    with pytest.raises(TimeoutError, match="own"):
        time_limit.call("a", _raise)
    fifo(tmp_path / "fifo")
    for is_new in (True, False):
        with pytest.raises(SlowError) as error:
            time_limit.call("a", (tmp_path / "fifo").read_bytes)
        assert error.value.is_new == is_new
    assert time_limit.call("b", lambda: 4) == 4
    (tmp_path / "fifo").write_bytes(b"late")
    time.sleep(0.1)
    assert time_limit.call("a", lambda: b"") == b"late"
    assert time_limit.call("a", lambda: b"") == b""


def _raise() -> None:
    raise TimeoutError("own")


def test_a_registry_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fifo(tmp_path / "fifo")
    monkeypatch.setattr(registry_module, "ENTRY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(Path, "is_dir", lambda _: bool((tmp_path / "fifo").read_bytes()) or True)
    with pytest.raises(InvalidInputError, match="cannot be reached"):
        Registry(tmp_path)
    (tmp_path / "fifo").write_bytes(b"")


def test_the_service_goes_on_beside_a_fifo(http: httpx.Client, registry: Path):
    """Under a name of its own: tests of others look for theirs in the log."""
    (registry / "pipe").mkdir()
    fifo(registry / "pipe" / "config.json")
    try:
        answer = until(lambda: given if (given := http.get("/v1/encoders/pipe")).status_code == 200 else None)
        assert answer.json()["status"] == "broken"
        assert "config.json is a FIFO" in answer.json()["reason"]
        assert http.get("/v1/encoders/bae").json()["status"] == "ready"
    finally:
        shutil.rmtree(registry / "pipe")
    until(lambda: http.get("/v1/encoders/pipe").status_code == 404)
