"""SIGTERM: requests under way are finished where they can be, and the service ends in time whatever hangs."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch

from tests.serving.command import Command, serving
from tests.serving.support import KEY, D, make_encoder

STOP_S = 20


def stopped_in(service: Command) -> float:
    """Seconds from SIGTERM to the end of the process, and of all that it had started."""
    children = psutil.Process(service.process.pid).children(recursive=True)
    started = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(60)
    seconds = time.monotonic() - started
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    return seconds


@pytest.mark.slow
def test_a_request_under_way_is_answered_after_sigterm(tmp_path: Path):
    """Half of its body is there when the signal comes, the other half comes two seconds later."""
    autoencoder = make_encoder(tmp_path / "one")
    x = np.random.default_rng(2).normal(size=(8, D)).astype(np.float32)
    wanted = np.packbits(autoencoder.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()
    body = json.dumps({"x": x.tolist()}).encode()
    body += b" " * (4000 - len(body))
    with serving(tmp_path) as service:
        with service.half_sent(body=body[:50], length=len(body)) as connection:
            time.sleep(1)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(2)
            assert service.process.poll() is None, "it waits for the request"
            connection.sendall(body[50:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert service.process.wait(STOP_S) == 0
        status, content = answer.split(b"\r\n", 1)[0], answer.split(b"\r\n\r\n", 1)[1]
        assert b" 200 " in status, answer[:500]
        assert json.loads(content[content.index(b"{") : content.rindex(b"}") + 1])["code"] == wanted
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{service.url}/livez")


@pytest.mark.slow
@pytest.mark.parametrize("hung", ["ray::ServeController", "ray::ServeReplica"])
def test_it_ends_in_time_whatever_hangs(tmp_path: Path, hung: str):
    """Bodies that never come to their end, and processes that do not answer."""
    make_encoder(tmp_path / "one")
    with serving(tmp_path) as service:
        hanging = [service.half_sent() for _ in range(4)]
        time.sleep(1)
        for process in service.processes(hung):
            os.kill(process.pid, signal.SIGSTOP)
        assert stopped_in(service) < STOP_S
        for connection in hanging:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("haproxy", [False, True])
def test_requests_that_hang_are_given_up(tmp_path: Path, haproxy: bool):
    make_encoder(tmp_path / "one")
    with serving(tmp_path, *(["--haproxy"] if haproxy else [])) as service:
        hanging = [service.half_sent() for _ in range(4)]
        time.sleep(1)
        headers = {"authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{service.url}/v1/encoders/one/encode", json={"x": [[0.0] * D]}, headers=headers)
        assert answer.status_code == 200
        assert stopped_in(service) < STOP_S
        assert service.process.returncode == 0, "nothing had to be killed"
        for connection in hanging:
            connection.close()
