"""Clients that are slow, or do not go on: they hold up nobody, and not for ever."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np

from bae_ray import load_autoencoder
from bae_ray.serving.proxy import HEAD_S
from tests.serving.support import KEY, LIMITS, D, Served

HEAD = (
    "POST /v1/encoders/bae/encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Length: {{}}\r\n\r\n"
)
ATTACKERS = 400


@contextmanager
def connections(served: Served, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Connections on each of which so much is sent."""
    host, port = served.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(count)]
        for connection in opened:
            connection.sendall(data)
        yield opened


def ended(connection: socket.socket) -> bytes:
    """What came until the other side closed the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_slow_bodies_hold_up_nobody(served: Served, http: httpx.Client):
    """Several times as many as are worked on at a time; they announce more than all memory, and send a byte."""
    assert 4 * LIMITS.max_inflight < ATTACKERS
    bae = load_autoencoder(served.registry / "bae")
    import torch

    x = np.random.default_rng(3).normal(size=(4, D)).astype(np.float32)
    wanted = np.packbits(bae.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()
    with connections(served, ATTACKERS, HEAD.format(LIMITS.max_body_bytes).encode() + b"{") as attackers:
        started = time.monotonic()
        while time.monotonic() < started + 4:  # they are shown out later
            for path in ("/livez", "/readyz"):
                asked = time.monotonic()
                answer = http.get(path)
                assert answer.status_code == 200, answer.text
                assert time.monotonic() - asked < LIMITS.body_timeout_s - 1
            answer = http.post("/v1/encoders/bae/encode", json={"x": x.tolist()})
            assert answer.status_code == 200, answer.text
            assert answer.json()["code"] == wanted
        answers = [ended(attacker) for attacker in attackers]
        seconds = time.monotonic() - started
    statuses = {answer.split(b" ", 2)[1] for answer in answers}
    assert statuses <= {b"408", b"429"}, statuses
    assert seconds < LIMITS.body_timeout_s + 10
    answer = http.post("/v1/encoders/bae/encode", json={"x": x.tolist()})
    assert answer.json()["code"] == wanted


def test_connections_that_do_not_go_on_are_closed(served: Served, http: httpx.Client):
    """Nothing sent, half a head, and the rest of a body that was refused already."""
    refused = HEAD.replace(KEY, "x" * 32).format(1000).encode() + b"{"
    with (
        connections(served, 1, b"") as idle,
        connections(served, 1, HEAD.encode()[:40]) as half,
        connections(served, 1, refused) as rest,
    ):
        started = time.monotonic()
        assert ended(idle[0]) == b""
        assert ended(half[0]) == b""
        assert b" 401 " in ended(rest[0]).split(b"\r\n")[0]
        assert HEAD_S / 2 < time.monotonic() - started < HEAD_S + 5
    assert http.get("/livez").status_code == 200
