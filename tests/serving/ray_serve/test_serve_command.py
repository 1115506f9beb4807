"""`bae-ray serve` as a shell would run it, and what it refuses to do."""

import os
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from ray.serve import Application

from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import D, make_encoder, until


def test_what_is_unsafe_or_cannot_start_is_refused(bae_ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BAE_RAY_API_KEYS", raising=False)
    for options in (["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--haproxy"]):
        code, _, err = bae_ray("serve", "--registry", tmp_path, *options)
        assert code == 2
        assert "no bearer keys" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = bae_ray("serve", "--registry", tmp_path, "--port", taken.getsockname()[1])
        assert code == 2
        assert "cannot listen on" in err
    code, _, err = bae_ray("serve", "--registry", tmp_path / "none", "--port", free_port())
    assert code == 2
    assert "is not a folder" in err


def test_haproxy_is_not_asked_of_a_ray_that_others_have_started(ray_cluster: None, tmp_path: Path):
    """Its processes would not know of it, and the service would listen elsewhere than it was told to."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", "serve", "--registry", str(tmp_path)]
    command += ["--haproxy", "--port", str(free_port())]
    ended = subprocess.run(
        command, check=False, env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert "--haproxy needs a Ray of its own" in ended.stderr


def test_config_yaml_builds(tmp_path: Path):
    """What serve/config.yaml names is there, and can be built with its arguments but for the registry."""
    config = yaml.safe_load((Path(__file__).parents[3] / "serve" / "config.yaml").read_text())
    (application,) = config["applications"]
    module, _, builder = application["import_path"].partition(":")
    arguments = ServiceConfig.model_validate({**application["args"], "registry": tmp_path})
    assert arguments.encoders.num_gpus == 0.25
    assert isinstance(getattr(import_module(module), builder)(arguments), Application)


@pytest.mark.slow
@pytest.mark.parametrize("haproxy", [False, True])
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path, haproxy: bool):
    make_encoder(tmp_path / "one")
    port = free_port()
    command = [sys.executable, "-c", "from bae_ray.cli import main; main()", "serve", "--registry", str(tmp_path)]
    key = "s" * 32
    command += ["--port", str(port), *(["--haproxy"] if haproxy else [])]
    with subprocess.Popen(command, env={**os.environ, "BAE_RAY_API_KEYS": key}) as service:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}) as http:

                def ready() -> bool:
                    try:
                        return http.get("/readyz").status_code == 200
                    except httpx.HTTPError:
                        return False

                until(ready, 180)
                answer = http.post("/v1/encoders/one/encode", json={"x": [[0.0] * D]}, timeout=60)
                assert answer.status_code == 200
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(90) == 0
