"""One service for all tests here: real Ray Serve, real HTTP, three encoders of the library and a broken one."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bae_ray.client import Client
from bae_ray.serving.config import EncodersConfig, GatewayConfig, ServiceConfig, TextsConfig
from bae_ray.serving.ray_serve.environment import prepare
from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import KEY, LIMITS, NARROW_KEY, Served, make_encoder, make_run, until, with_tree

prepare()  # before Ray starts, so that its processes have it


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry: a binary encoder with a tree, a ReLU one, a run, and one whose weights are cut off."""
    folder = tmp_path_factory.mktemp("registry")
    make_encoder(folder / "bae", change=with_tree)
    make_encoder(folder / "relu", 2, "relu")
    make_run(folder / "run", "tiny")
    make_run(folder / "demo", "tiny")
    make_encoder(folder / "cut")
    weights = (folder / "cut" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return folder


@pytest.fixture(scope="session")
def endless_model(tiny_causal_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny causal model with room for 5,000 tokens, which ends no text."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(tiny_causal_model, folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings |= {"eos_token_id": None} | ({"max_position_embeddings": 5000} if name == "config.json" else {})
        (folder / name).write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def served(
    ray_cluster: None, registry: Path, tiny_model: Path, tiny_causal_model: Path, endless_model: Path
) -> Iterator[Served]:
    """The service, up."""
    from ray import serve

    from bae_ray.serving.app import build

    os.environ["BAE_RAY_API_KEYS"] = f"{KEY} name=tests; {NARROW_KEY} name=narrow encoders=rel*,run"
    models = {"tiny": str(tiny_causal_model), "headless": str(tiny_model), "endless": str(endless_model)}
    # Without CPUs of their own: the service is up until the session ends, and later tests need all that there are.
    config = ServiceConfig(
        registry=registry,
        limits=LIMITS,
        gateway=GatewayConfig(num_cpus=0),
        encoders=EncodersConfig(num_cpus=0, encoders_per_replica=2),
        texts=TextsConfig(num_cpus=0, min_replicas=1, models=models),
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 100})
    serve.run(build(config), name="bae_ray", route_prefix="/")
    del os.environ["BAE_RAY_API_KEYS"]
    yield Served(f"http://127.0.0.1:{port}", registry, config)
    serve.shutdown()


@pytest.fixture(scope="session")
def http(served: Served) -> Iterator[httpx.Client]:
    """A plain HTTP client with a key."""
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[Client]:
    """Our client."""
    with Client(served.url, KEY) as made:
        yield made


@pytest.fixture
def dropped(served: Served, http: httpx.Client) -> Iterator[Path]:
    """A folder of the registry that a test may fill, which the service does not know; it is gone afterwards."""
    until(lambda: http.get("/v1/encoders/dropped").status_code == 404)
    folder = served.registry / "dropped"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
