"""What listens where while a command runs, as the system says: at the loopback address, but for what was asked for."""

import ipaddress
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import make_encoder, until

KEY = "s" * 32
MAIN = "from bae_ray.cli import main; main()"


class Listener(NamedTuple):
    """A socket at which one can connect."""

    address: str
    port: int
    process: str

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        address = ipaddress.ip_address(self.address)
        return not (getattr(address, "ipv4_mapped", None) or address).is_loopback


class Watched:
    """A command as a process of its own, and all that it and its children ever listen at."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-c", MAIN, *map(str, arguments)]
        environment = {**os.environ, "RAY_ADDRESS": "local", "BAE_RAY_API_KEYS": KEY}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        self.found: set[Listener] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def tree(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def _watch(self) -> None:
        while self.process.poll() is None:
            for process in self.tree():
                with suppress(psutil.Error):
                    name = process.name()
                    for socket in process.net_connections("inet"):
                        if socket.status == psutil.CONN_LISTEN:
                            self.found.add(Listener(*socket.laddr, name))
            time.sleep(0.3)

    def end(self) -> None:
        """Stop a service; how is the business of its own tests."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
        self._check()

    def finish(self, seconds: float) -> None:
        assert self.process.wait(seconds) == 0
        self._check()

    def _check(self) -> None:
        self._thread.join()
        # Ray's own: otherwise nothing was looked at.
        assert any(listener.process == "gcs_server" for listener in self.found)

    def opened(self) -> set[tuple[str, int]]:
        """What others can reach."""
        return {(listener.address, listener.port) for listener in self.found if listener.is_open}

    def kill(self) -> None:
        for process in self.tree():
            with suppress(psutil.Error):
                process.kill()


@pytest.mark.slow
def test_extract(tiny_config: ExtractConfig, tmp_path: Path):
    command = Watched(
        "extract", "--model", tiny_config.model, "--corpus", tiny_config.corpus, "--positions", 2, "--layers", 1,
        "--gpus-per-worker", 0, "--workers", 1, "--out", tmp_path / "store",
    )  # fmt: skip
    command.finish(120)
    assert command.opened() == set()


@pytest.mark.slow
def test_sweep(tiny_store: Path, tmp_path: Path):
    command = Watched(
        "sweep", "--store", tiny_store, "--out", tmp_path / "runs", "--layers", 1, "--positions", 2,
        "--gpus-per-trial", 0, "--training.epochs", 1,
    )  # fmt: skip
    command.finish(120)
    assert command.opened() == set()


def serve(tmp_path: Path, port: int, *options: object) -> Watched:
    make_encoder(tmp_path / "registry" / "one")
    return Watched("serve", "--registry", tmp_path / "registry", "--port", port, *options)


def until_ready(command: Watched, port: int) -> None:
    def is_ready() -> bool:
        assert command.process.poll() is None, "it did not start"
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        return False

    until(is_ready, 180)
    url, headers = f"http://127.0.0.1:{port}/v1/encoders/one/encode", {"authorization": f"Bearer {KEY}"}
    assert httpx.post(url, json={"x": [[0.0] * 16]}, headers=headers, timeout=60).status_code == 200


@pytest.mark.slow
def test_serve(tmp_path: Path):
    port = free_port()
    command = serve(tmp_path, port)
    try:
        until_ready(command, port)
        command.end()
    finally:
        command.kill()
    assert command.opened() == set()
    assert ("127.0.0.1", port) in {listener[:2] for listener in command.found}


@pytest.mark.slow
def test_two_services_behind_haproxy_one_of_them_open_to_others(tmp_path: Path):
    """One after the other, since each takes the machine's cores; both of them up together."""
    ports = free_port(), free_port()
    first = serve(tmp_path, ports[0], "--haproxy")
    second = None
    try:
        until_ready(first, ports[0])
        options = ("--host", "0.0.0.0", "--gateway.num-cpus", 0, "--encoders.num-cpus", 0)
        second = serve(tmp_path, ports[1], "--haproxy", *options)
        for command, port in zip((first, second), ports, strict=True):
            until_ready(command, port)
            proxies = [process for process in command.tree() if process.name() == "haproxy"]
            assert proxies
            names = {
                str(socket.laddr) for process in proxies for socket in process.net_connections("unix") if socket.laddr
            }
            sockets = {Path(name.split(".sock")[0] + ".sock") for name in names if name.startswith("/")}
            assert {path.name for path in sockets} >= {"admin.sock", "stats.sock", "metrics-page.sock"}
            for path in sockets:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == "log.sock", path
                assert stat.S_IMODE(path.parents[1].stat().st_mode) == 0o700
            stats = next(path for path in sockets if path.name == "stats.sock")
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(stats))) as http:
                assert "Statistics Report" in http.get("http://haproxy/stats").text
        for command in (first, second):
            command.end()
    finally:
        for command in filter(None, (first, second)):
            command.kill()
    assert first.opened() == set()
    assert second.opened() == {("0.0.0.0", ports[1])}


@pytest.mark.slow
@pytest.mark.judge
@pytest.mark.timeout(900)
def test_judge_serve():
    port = free_port()
    command = Watched("judge", "serve", "--port", port)
    try:

        def is_ready() -> bool:
            assert command.process.poll() is None, "it did not start"
            with suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
            return False

        until(is_ready, 400)
        command.end()
    finally:
        command.kill()
    assert command.opened() == set()
