"""`bae-ray serve` as a process of its own, with a Ray of its own of two CPUs."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import KEY, until

START = (
    "import ray, sys; ray.init(num_cpus=2, include_dashboard=False, logging_level='ERROR');"
    "from bae_ray.cli import main; main()"
)
"""What a fresh process runs: the machine is one of two CPUs, whatever it is in truth."""


class Command(NamedTuple):
    """The service under test, and its process."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes that it has started whose command line has this in it."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def half_sent(self, body: bytes = b"{", length: int = 1000) -> socket.socket:
        """A connection with a request whose body is not all there."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = (
            f"POST /v1/encoders/one/encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        return connection


@contextmanager
def serving(registry: Path, *options: object, ready_s: float = 180, start: str = START) -> Iterator[Command]:
    """`bae-ray serve` of a registry, ready; all of it is gone afterwards."""
    port = free_port()
    command = [sys.executable, "-c", start, "serve", "--registry", str(registry), "--port", str(port)]
    environment = {**os.environ, "BAE_RAY_API_KEYS": KEY}
    with subprocess.Popen([*command, *map(str, options)], env=environment) as process:
        made = Command(process, port)
        try:
            until(lambda: process.poll() is not None or is_ready(made.url), ready_s)
            assert process.poll() is None, "it did not start"
            yield made
        finally:
            for started in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
                with suppress(psutil.Error):
                    started.kill()
            process.kill()


def is_ready(url: str) -> bool:
    """Whether encoders can be asked there."""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
