"""Nothing that is sent brings the service down, makes it err, or makes it grow."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.hostile import draw
from tests.serving.support import KEY, D, Served, replicas

ALLOWED = {200, 400, 404, 405, 406, 408, 413, 415, 422, 429}
SLOW_BODIES = 8


def memory() -> dict[int, int]:
    """Resident bytes of the service's replicas, by process."""
    return {process.pid: process.memory_info().rss for process in replicas()}


def attack(served: Served, seed: int, n: int) -> list[str]:
    """Send so many requests, several at a time; what was answered that should not have been."""
    generator = random.Random(seed)
    requests = [draw(generator) for _ in range(n)]
    limits = httpx.Limits(max_connections=8)
    with httpx.Client(
        base_url=served.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, limits=limits
    ) as http:

        def send(numbered: tuple[int, tuple]) -> str | None:
            number, request = numbered
            method, path, headers, content = request
            try:
                answer = http.request(method, path, headers=headers, content=content)
            except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeEncodeError):
                return None  # httpx itself refuses to send it
            except httpx.TransportError as error:
                # A connection may be closed on a body that is refused while it is sent; on nothing else.
                return None if len(content) > 500_000 else f"{number} {method} {path}: {error!r}"
            if answer.status_code not in ALLOWED:
                return f"{number} {method} {path} {headers}: {answer.status_code} {answer.text[:200]}"
            if 16 < len(content) < 10_000 and answer.status_code >= 400 and content in answer.content:
                return f"{number}: the input is echoed"
            return None

        with ThreadPoolExecutor(8) as threads:
            return [wrong for wrong in threads.map(send, enumerate(requests)) if wrong]


def slow_bodies(served: Served) -> None:
    """Bodies that begin and do not go on are answered 408; those waiting beside them are served."""
    host, port = served.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/encoders/bae/encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    ).encode()
    connections = [socket.create_connection((host, int(port)), timeout=60) for _ in range(SLOW_BODIES)]
    for connection in connections:
        connection.sendall(head)
    beside = httpx.post(
        f"{served.url}/v1/encoders/bae/encode", json={"x": [[0.5] * D]}, headers={"authorization": f"Bearer {KEY}"}
    )
    assert beside.status_code == 200
    for connection in connections:
        assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]
        connection.close()


def test_some_hostile_requests(served: Served):
    assert attack(served, 1, 300) == []


@pytest.mark.slow
def test_ten_thousand_hostile_requests(served: Served):
    assert attack(served, 2, 2000) == []
    before = memory()
    assert before
    for seed in range(3, 7):
        assert attack(served, seed, 2000) == []
        slow_bodies(served)
    after = memory()
    assert after.keys() == before.keys(), "no replica has died"
    for process, size in after.items():
        assert size < 1.1 * before[process] + (32 << 20), f"{process} grew from {before[process]} to {size} bytes"
