"""What has its place on a machine is decided before anything starts; what has none is said at once."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import EncodersConfig, GatewayConfig, ServiceConfig, TextsConfig
from bae_ray.serving.ray_serve.fit_check import placed
from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.command import START, Command, serving
from tests.serving.support import KEY, D, make_encoder, make_run, until

CONFIGS = {"gateway": GatewayConfig, "encoders": EncodersConfig, "texts": TextsConfig}
amounts = st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2])
kinds = st.fixed_dictionaries(
    {
        name: st.builds(
            lambda kept, more, cpus, gpus, made=made: made(
                min_replicas=kept, max_replicas=max(1, kept + more), num_cpus=cpus, num_gpus=gpus
            ),
            st.integers(0, 3), st.integers(0, 9), amounts, amounts,
        )
        for name, made in CONFIGS.items()
    }
)  # fmt: skip


@given(kinds=kinds, cpus=st.integers(1, 8), gpus=st.integers(0, 1))  # shares of several GPUs: below
def test_all_replicas_that_there_may_be_fit_at_once(kinds: dict, cpus: int, gpus: int):
    config, have = ServiceConfig(registry=Path("x"), **kinds), {"CPU": float(cpus), "GPU": float(gpus)}

    def taken(counts: dict[str, int], resource: str) -> float:
        return math.fsum(counts[name] * kinds[name].needs[resource] for name in kinds)

    least = {name: max(1, kind.min_replicas) for name, kind in kinds.items()}
    if any(taken(least, resource) > have[resource] + 1e-6 for resource in have):
        with pytest.raises(InvalidInputError, match="but this machine has"):
            placed(config, have)
        return
    got, notes = placed(config, have)
    counts = {name: getattr(got, name).max_replicas for name in kinds}
    assert all(taken(counts, resource) <= have[resource] + 1e-6 for resource in have)
    assert all(least[name] <= counts[name] <= kinds[name].max_replicas for name in kinds)
    fewer = [name for name in CONFIGS if counts[name] < kinds[name].max_replicas]
    assert [note.split(".")[0] for note in notes] == fewer, "each that is cut is told of, and no other"
    for name in fewer:  # and one more would be too many
        more = {**counts, name: counts[name] + 1}
        assert any(taken(more, resource) > have[resource] + 1e-6 for resource in have)
    assert placed(config, None) == (config, [])


def test_the_defaults_fit_on_one_core():
    config = ServiceConfig(registry=Path("x"))
    assert placed(config, {"CPU": 1.0, "GPU": 0.0}) == (config, [])


@pytest.mark.slow
def test_what_does_not_fit_is_refused_at_the_start(tmp_path: Path):
    make_encoder(tmp_path / "one")
    command = [sys.executable, "-c", START, "serve", "--registry", tmp_path, "--port", free_port()]
    command += ["--texts.num-cpus", 1.5]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "the service needs 2.25 CPUs" in done.stderr
    assert "1 of the language models at 1.5 CPUs" in done.stderr
    assert "this machine has 2" in done.stderr


BUSY = """
import pathlib, ray, sys, time
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
from bae_ray.serving.config import ServiceConfig
config = ServiceConfig(registry=".")
free = 2 - config.gateway.num_cpus - config.encoders.num_cpus

@ray.remote(num_cpus=free, max_retries=0)
def busy(until):
    while not pathlib.Path(until).exists():
        time.sleep(0.1)

waiting = busy.remote(sys.argv[sys.argv.index("--registry") + 1] + "/go")
time.sleep(2)
from bae_ray.cli import main
main()
"""
"""What starts a service where somebody else's job has the rest of the machine, for as long as there is no file "go"."""


def ask(service: Command, path: str, body: dict) -> httpx.Response:
    url = f"{service.url}/v1/encoders/run/{path}"
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=90)


@pytest.mark.slow
def test_texts_that_have_no_place_are_refused_at_once_and_never_take_the_encoders(tmp_path: Path, tiny_model: Path):
    make_run(tmp_path / "run", "tiny")
    models = ["--texts.models", "tiny", tiny_model]
    with serving(tmp_path, *models, start=BUSY) as service:
        for _ in range(3):
            started = time.monotonic()
            answer = ask(service, "texts/encode?top_k=1", {"texts": ["w1"]})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
            assert "CPUs" in answer.json()["detail"]
            assert time.monotonic() - started < 10
        (victim,) = service.processes("ray::ServeReplica:bae_ray-encoders")
        os.kill(victim.pid, signal.SIGKILL)

        def encodes() -> bool:
            """Texts are asked for all the while, and would take what the encoders left."""
            assert ask(service, "texts/encode?top_k=1", {"texts": ["w1"]}).status_code == 503
            return ask(service, "encode", {"x": [[0.0] * D]}).status_code == 200

        until(encodes, 60)
        (tmp_path / "go").touch()
        until(lambda: ask(service, "texts/encode?top_k=1", {"texts": ["w1"]}).status_code == 200, 60)


@pytest.mark.parametrize(("gpus", "share", "fit"), [(1, 0.2, 5), (1, 0.1, 10), (1, 1 / 6, 6), (2, 0.6, 2), (3, 1, 3)])
def test_shares_of_gpus_are_counted_in_whole_numbers(gpus: int, share: float, fit: int):
    """Three of .6 are less than two GPUs, but none lies on two."""
    encoders = {"num_gpus": share, "num_cpus": 0, "max_replicas": 99}
    config = ServiceConfig.model_validate({"registry": "r", "encoders": encoders})
    got, _ = placed(config, {"CPU": 64.0, "GPU": float(gpus)})
    assert got.encoders.max_replicas == fit


@given(st.integers(1, 30), st.integers(1, 3))
def test_shares_of_cpus_are_counted_in_whole_numbers(number: int, cpus: int):
    encoders = {"num_cpus": 1 / number, "max_replicas": 999}
    nothing = {"num_cpus": 0, "max_replicas": 1}
    config = ServiceConfig.model_validate({"registry": "r", "encoders": encoders, "gateway": nothing, "texts": nothing})
    got, _ = placed(config, {"CPU": float(cpus), "GPU": 0.0})
    assert got.encoders.max_replicas == number * cpus
