"""`bae-ray serve` of a registry in a bucket, as a process of its own; its replicas and itself are killed."""

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from bae_ray.locations import local_path
from tests.bucket import Server
from tests.serving.command import Command, serving
from tests.serving.support import KEY, D, make_encoder, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def codes(command: Command, encoder: str, x: np.ndarray) -> list | None:
    """What the service makes of vectors; None where it has no such encoder, or cannot tell just now."""
    try:
        answer = httpx.post(
            f"{command.url}/v1/encoders/{encoder}/encode", json={"x": x.tolist()},
            params={"format": "indices", "arrays": "nested"},
            headers={"Authorization": f"Bearer {KEY}"}, timeout=60,
        )  # fmt: skip
    except httpx.HTTPError:
        return None
    return answer.json()["indices"] if answer.status_code == 200 else None


def test_encoders_of_a_bucket_are_served_through_kills(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri, x = server.bare_uri("bucket/registry"), np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
    expected = {}
    for seed, name in enumerate(("one", "two")):
        encoder = make_encoder(tmp_path / "here" / name, seed)
        expected[name] = [row.nonzero()[0].tolist() for row in encoder.encode(torch.from_numpy(x)).numpy()]

    def upload(name: str) -> None:
        for file in (tmp_path / "here" / name).iterdir():
            server.write(f"bucket/registry/{name}/{file.name}", file.read_bytes())

    upload("one")
    with serving(uri) as command:  # pyright: ignore[reportArgumentType] - a URI in place of a folder
        assert codes(command, "one", x) == expected["one"]
        assert codes(command, "two", x) is None
        upload("two")
        until(lambda: codes(command, "two", x) == expected["two"], 60)
        for replica in command.processes("ray::ServeReplica:bae_ray-encoders"):
            replica.kill()
        until(lambda: codes(command, "one", x) == expected["one"], 120)
        command.process.kill()
        command.process.wait()
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))
    with serving(uri) as command:  # pyright: ignore[reportArgumentType]
        assert codes(command, "two", x) == expected["two"]
    assert local_path(uri).is_dir()
