"""Encoders come and go without a restart, and broken ones are told."""

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
import torch

from bae_ray.errors import InvalidInputError
from bae_ray.serving import registry as registry_module
from bae_ray.serving.keys import read_keys
from bae_ray.serving.registry import Registry
from tests.serving.support import D, Served, make_encoder, until


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


def test_what_is_in_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_module, "LOOK_AGAIN_S", 0)
    found = Registry(tmp_path)
    assert found.entries() == {}
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
    assert found.entries().keys() == {"good"}, "a run without a result is still trained"
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(tmp_path / "good" / "config.json", copied)
    assert found.entries()["copied"].config is None
    shutil.copy(tmp_path / "good" / "model.safetensors", copied)
    assert found.entries()["copied"].config is not None, "it is looked at again once it is whole"
    (copied / "config.json").write_text('{"architecture": "bae", "d_in": 17}')
    assert "do not fit" in found.entries()["copied"].reason


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
