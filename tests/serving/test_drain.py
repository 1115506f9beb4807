"""SIGTERM while a request is under way: it is finished, and the service then ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from tests.serving.support import D, free_port, make_encoder, until


@pytest.mark.slow
def test_a_request_under_way_is_answered_after_sigterm(tmp_path: Path):
    """Half of its body is there when the signal comes, the other half comes two seconds later."""
    autoencoder = make_encoder(tmp_path / "one")
    x = np.random.default_rng(2).normal(size=(8, D)).astype(np.float32)
    wanted = np.packbits(autoencoder.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()
    body = json.dumps({"x": x.tolist()}).encode()
    port = free_port()
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", "serve", "--registry", str(tmp_path)]
    command += ["--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "BAE_RAY_API_KEYS"}
    with subprocess.Popen(command, env=environment) as service:
        try:
            until(lambda: is_ready(port), 180)
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                head = (
                    f"POST /v1/encoders/one/encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                ).encode()
                connection.sendall(head + body[:50])
                time.sleep(1)
                service.send_signal(signal.SIGTERM)
                time.sleep(2)
                assert service.poll() is None, "it waits for the request"
                connection.sendall(body[50:])
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert service.wait(90) == 0
        finally:
            service.kill()
    status, content = answer.split(b"\r\n", 1)[0], answer.split(b"\r\n\r\n", 1)[1]
    assert b" 200 " in status, answer[:500]
    assert json.loads(content[content.index(b"{") : content.rindex(b"}") + 1])["code"] == wanted
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/livez")


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
