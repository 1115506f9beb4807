"""What `bae-ray serve` without keys says when it is up, and how it describes itself."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import make_encoder


@pytest.mark.slow
def test_a_start_is_one_line(tmp_path: Path):
    for n in range(9):
        make_encoder(tmp_path / f"e{n}")
    weights = tmp_path / "e3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    port = free_port()
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", "serve", "--registry", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "BAE_RAY_API_KEYS"}
    said: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(
        [*command, "--port", str(port)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as service:
        assert service.stdout is not None
        reader = threading.Thread(target=lambda: [said.put(line) for line in service.stdout or ()])
        reader.start()
        try:
            line = said.get(timeout=180)
            url = f"http://127.0.0.1:{port}"
            assert line.startswith(
                f"9 encoders (1 of them broken: the list says why) are served at {url}, described at"
            )
            assert "\x1b" not in line
            security = httpx.get(f"{url}/openapi.json").json()["paths"]["/v1/encoders"]["get"]["security"]
            assert security == [{}, {"key": []}], "a key may be left out"
            listed = httpx.get(f"{url}/v1/encoders", timeout=60).json()["encoders"]
            assert [each["id"] for each in listed if each["reason"]] == ["e3"]
            time.sleep(1)  # Ray passes on what its processes print several times a second
            assert said.empty(), said.get()
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(90)
            reader.join()
    assert service.returncode == 0
