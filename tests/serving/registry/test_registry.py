"""Encoders come and go without a restart, and broken ones are told."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
import ray
import torch
from ray.serve.handle import DeploymentHandle

from bae_ray import load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.http import service as service_module
from bae_ray.serving.http.keys import read_keys
from bae_ray.serving.http.responses import info
from bae_ray.serving.http.service import Service
from bae_ray.serving.monitoring.counts import Metrics
from bae_ray.serving.registry import registry as registry_module
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.registry.registry import Registry
from tests.serving.support import LIMITS, D, Served, make_encoder, make_run, until


def service_log() -> str:
    """What the gateway has written."""
    session = ray._private.worker._global_node.get_session_dir_path()  # pyright: ignore[reportPrivateImportUsage, reportOptionalMemberAccess, reportAttributeAccessIssue]
    folder = Path(session) / "logs" / "serve"
    return "".join(file.read_text() for file in folder.glob("replica_bae_ray_Gateway*.log"))


def test_a_new_encoder_is_served_without_a_restart_and_a_changed_one_anew(http: httpx.Client, dropped: Path):
    x = np.random.default_rng(1).normal(size=(3, D)).astype(np.float32)
    assert http.get("/v1/encoders/dropped").status_code == 404
    for seed in (11, 12):
        autoencoder = make_encoder(dropped, seed)
        wanted = np.packbits(autoencoder.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()

        def served(wanted=wanted):
            answer = http.post("/v1/encoders/dropped/encode", json={"x": x.tolist()})
            assert answer.status_code in (200, 404, 503), answer.text
            return answer.status_code == 200 and answer.json()["code"] == wanted

        until(served)
    shutil.rmtree(dropped)
    until(lambda: http.get("/v1/encoders/dropped").status_code == 404)


def test_a_broken_encoder_is_refused_with_a_clear_log(http: httpx.Client, dropped: Path):
    """Of the right shapes, but with a NaN among the weights, which only loading it shows."""
    autoencoder = make_encoder(dropped, 13)
    autoencoder.W_enc[0, 0] = float("nan")
    autoencoder.save_pretrained(dropped)
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    answer = http.post("/v1/encoders/dropped/encode", json={"x": [[0.0] * D]})
    assert (answer.status_code, answer.json()["code"]) == (503, "encoder_broken")
    assert "W_enc in dropped/" in answer.json()["detail"]
    assert str(dropped) not in answer.text
    listed = {encoder["id"]: encoder for encoder in http.get("/v1/encoders").json()["encoders"]}
    assert listed["dropped"]["status"] == "broken"
    assert "W_enc" in listed["dropped"]["reason"]
    log = until(lambda: text if "encoder dropped is refused" in (text := service_log()) else "")
    line = next(line for line in log.splitlines() if "encoder dropped is refused" in line)
    assert '"levelname": "ERROR"' in line
    assert "W_enc" in line


def test_the_log_has_a_line_per_request_and_nothing_of_bodies(http: httpx.Client):
    http.post("/v1/encoders/bae/encode", json={"x": [[123456.75] * D]}, headers={"x-request-id": "logged-1"})
    log = until(lambda: text if '"bae_request": "logged-1"' in (text := service_log()) else "")
    line = next(line for line in log.splitlines() if '"bae_request": "logged-1"' in line)
    for wanted in ('"bae_status": 200', '"bae_rows": 1', '"bae_encoder": "bae"', '"bae_caller": "tests"'):
        assert wanted in line
    assert "123456" not in log


def test_what_is_in_a_registry(tmp_path: Path):
    found = Registry(tmp_path)
    assert found.look() == {}
    make_encoder(tmp_path / "good")
    (tmp_path / "run in training").mkdir()
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "a file").write_text("")
    (tmp_path / "config only").mkdir()
    (tmp_path / ".hidden").mkdir()
    shutil.copy(tmp_path / "good" / "config.json", tmp_path / ".hidden")
    trained = tmp_path / "trained"
    make_encoder(trained)
    (trained / "run.json").write_text("{}")
    assert found.look().keys() == {"good"}, "a run without a result is still trained"
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(tmp_path / "good" / "config.json", copied)
    assert found.look()["copied"].config is None
    shutil.copy(tmp_path / "good" / "model.safetensors", copied)
    assert found.look()["copied"].config is not None, "it is looked at again once it is whole"
    (copied / "config.json").write_text('{"architecture": "bae", "d_in": 17}')
    assert "do not fit" in found.look()["copied"].reason


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("result.json", "[]", "result.json"),
        ("result.json", "null", "result.json"),
        ("result.json", '{"fvu_val": 1' + "0" * 400 + "}", "OverflowError"),
        ("result.json", "[" * 100_000, "Recursion"),
        ("result.json", '{"model": "m", "layer": "x", "site": "s", "position": "all"}', "result.json: layer is 'x'"),
        ("result.json", '{"model": "m", "layer": 1, "site": "s", "position": "first"}', "result.json: position"),
        ("result.json", '{"model": ["\\ud800"], "layer": 1, "site": "s", "position": 1}', "result.json: model"),
        ("config.json", '{"architecture": "bae", "d_in": 4000000000, "d_latent": 4000000000}', "overflow"),
        ("config.json", '{"architecture": "bae", "d_in": 1' + "0" * 400 + "}", "its files cannot be read"),
        ("config.json", '{"architecture": "bae", "d_in": "x"}', "config.json: bae.d_in is 'x'"),
        ("config.json", "null", "config.json"),
        ("model.safetensors", "", "header"),
    ],
)  # fmt: skip
def test_a_damaged_encoder_is_broken_alone(tmp_path: Path, name: str, text: str, reason: str):
    for encoder in ("good", "bad"):
        make_run(tmp_path / encoder, "tiny")
    (tmp_path / "bad" / name).write_text(text)
    found = Registry(tmp_path).look()
    assert (found["good"].config is None, found["bad"].config is None) == (False, True)
    assert reason in found["bad"].reason
    assert str(tmp_path) not in found["bad"].reason
    assert [json.loads(info(found[encoder], LIMITS).model_dump_json())["status"] for encoder in ("good", "bad")] == [
        "ready", "broken",
    ]  # fmt: skip


def test_what_cannot_be_looked_into_is_broken_and_what_has_no_id_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_encoder(tmp_path / "good")
    for name in ("no id", ".hidden"):
        shutil.copytree(tmp_path / "good", tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    found = Registry(tmp_path)
    with caplog.at_level("ERROR", "ray.serve"):
        for _ in range(2):
            assert {name: entry.config is None for name, entry in found.look().items()} == {"good": False, "loop": True}
    assert ["no id" in record.getMessage() for record in caplog.records].count(True) == 1
    assert not any("hidden" in record.getMessage() for record in caplog.records)


def test_files_are_read_once_and_only_those_of_the_encoder_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []

    def counted(encoder_id: str, *about: Any) -> Entry:
        read.append(encoder_id)
        return original(encoder_id, *about)

    original = registry_module.read_entry
    monkeypatch.setattr(registry_module, "read_entry", counted)
    for name in ("a", "b"):
        make_encoder(tmp_path / name)
    found = Registry(tmp_path)
    entry = found.find("b")
    assert entry is not None
    assert (entry.id, read) == ("b", ["b"])
    assert found.find("../a") is None
    for _ in range(3):
        found.look()
    assert sorted(read) == ["a", "b"]
    prior = load_autoencoder(tmp_path / "a").prior.double()
    wanted = -(prior * prior.log2() + (1 - prior) * (1 - prior).log2()).sum()
    assert found.known["a"].prior_bits == pytest.approx(float(wanted), rel=1e-6)


def test_a_slow_disk_keeps_nobody_waiting_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder is looked at in a thread, by one request for all; after a while they go by what was there before."""
    make_encoder(tmp_path / "a")
    monkeypatch.setattr(service_module, "LOOK_TIMEOUT_S", 0.2)
    no_handle = cast(DeploymentHandle, None)
    service = Service(ServiceConfig(registry=tmp_path), no_handle, no_handle, Metrics("r"))
    before, looks = service.registry.look(), []
    service.registry._looked = float("-inf")

    def slow() -> dict[str, Entry]:
        looks.append(1)
        time.sleep(1)
        return {}

    monkeypatch.setattr(service.registry, "look", slow)

    async def ask() -> float:
        longest, last = 0.0, time.monotonic()
        waiting = asyncio.gather(*(service.entries() for _ in range(5)))
        while not waiting.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert await waiting == [before] * 5
        return longest

    assert asyncio.run(ask()) < 0.2, "the event loop stood still"
    assert len(looks) == 1


def test_a_registry_that_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="is not a folder"):
        Registry(tmp_path / "none")


def test_keys_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Served):
    monkeypatch.delenv("BAE_RAY_API_KEYS", raising=False)
    assert not read_keys(None)
    file = tmp_path / "keys"
    file.write_text(f"# team a\n{'a' * 20} name=a encoders=layer*,x\n\n{'b' * 20}\n")
    keys = read_keys(file)
    caller = keys.find("a" * 20)
    assert caller is not None
    assert (caller.name, caller.may_use("layer3"), caller.may_use("y")) == ("a", True, False)
    assert keys.find("c" * 20) is None
    for text, reason in (("short\n", "line 1"), ("", "no key"), (f"{'a' * 20} who=a", "line 1")):
        file.write_text(text)
        with pytest.raises(InvalidInputError, match=reason) as error:
            read_keys(file)
        assert "short" not in str(error.value)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_keys(tmp_path / "none")
