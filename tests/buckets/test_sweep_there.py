"""Sweeps whose folder is in a bucket: the same files as in a folder of this machine."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load, load_file

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.training.results import results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SearchConfig, SweepConfig
from tests.bucket import PASSWORD, Server

pytestmark = pytest.mark.usefixtures("ray_cluster")

OPTIONS = (
    "--layers", "2", "--positions", "7", "--axes", "training.entropy_weight=1e-4,1e-2", "--gpus-per-trial", "0",
    "--training.epochs", "4", "--training.batch-size", "32", "--training.lr", "3e-3",
)  # fmt: skip
CONFIG = SweepConfig.model_validate({
    "layers": (2,), "positions": (7,), "axes": ("training.entropy_weight=1e-4,1e-2",), "gpus_per_trial": 0,
    "training": {"epochs": 4, "batch_size": 32, "lr": 3e-3},
})  # fmt: skip


@pytest.fixture(scope="module")
def local(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in a folder of this machine."""
    out = tmp_path_factory.mktemp("local") / "runs"
    sweep(CONFIG, ActivationStore.open(tiny_store), out)
    return out


def kinds(names: Iterable[str]) -> set[str]:
    """The names without the times in those of TensorBoard's files."""
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in names}


def without_time(text: bytes) -> dict:
    return {name: value for name, value in json.loads(text).items() if name != "seconds"}


def test_one_command_writes_the_files_of_a_local_sweep(
    bae_ray: Callable, server: Server, tiny_store: Path, local: Path, cache: Path
):
    uri = server.bare_uri("bucket/sweep")
    code, out, err = bae_ray("sweep", "--store", tiny_store, "--out", uri, *OPTIONS)
    assert code == 0, err
    assert "s3://bucket/sweep/results.parquet" in out
    assert str(cache) not in out + err
    ours = {str(file.relative_to(local)) for file in local.rglob("*") if file.is_file()}
    assert kinds(server.names("bucket/sweep")) == kinds(ours) | {"sweep.json"}
    record = json.loads(server.read("bucket/sweep/sweep.json"))
    assert record["out"] == uri
    for file in sorted(local.glob("*/*")):
        name = str(file.relative_to(local))
        if file.name == "result.json":
            assert without_time(server.read(f"bucket/sweep/{name}")) == without_time(file.read_bytes())
        elif file.suffix == ".json":
            assert server.read(f"bucket/sweep/{name}") == file.read_bytes(), name
        elif file.name in ("model.safetensors", "tree.safetensors"):
            tensors = load(server.read(f"bucket/sweep/{name}"))
            assert all(torch.equal(tensors.pop(key), value) for key, value in load_file(file).items())
            assert not tensors
    there = results(uri)
    pd.testing.assert_frame_equal(there.drop(columns="seconds"), results(local).drop(columns="seconds"))
    run = str(there["run"].iloc[0])
    loaded = load_autoencoder(server.bare_uri(f"bucket/sweep/{run}"))
    assert loaded.source == run


def test_another_machine_trains_nothing_again(
    bae_ray: Callable, server: Server, tiny_store: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = server.bare_uri("bucket/again")
    assert sweep(CONFIG, ActivationStore.open(tiny_store), uri).trained == 2
    (lost, *_) = [name for name in server.names("bucket/again") if name.endswith("result.json")]
    server.files.delete_file(f"bucket/again/{lost}")
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "other"))
    before = len(server.requests("PUT|POST", "bucket/again/"))
    assert sweep(CONFIG, ActivationStore.open(tiny_store), uri).trained == 1
    weights = [n for n in server.requests("PUT|POST", "bucket/again/")[before:] if n.endswith("model.safetensors")]
    assert {Path(name).parent.name for name in weights} == {Path(lost).parent.name}
    assert {file.parent.name for file in (tmp_path / "other").rglob("model.safetensors")} == {Path(lost).parent.name}
    pd.testing.assert_frame_equal(results(uri).drop(columns="seconds"), results(local).drop(columns="seconds"))
    for verb in (
        ["report", "--out", server.bare_uri("bucket/report")],
        ["entropy", "--out", server.bare_uri("bucket/e.csv")],
    ):
        code, out, err = bae_ray(verb[0], "--runs", uri, *verb[1:])
        assert code == 0, err
        assert "s3://bucket/" in out
        assert str(tmp_path) not in out + err
    code, out, err = bae_ray("watch", "--runs", uri, "--once")
    assert code == 0, err
    assert "2 of 2" in out
    assert bae_ray("report", "--runs", local, "--out", tmp_path / "report")[0] == 0
    ours = {str(file.relative_to(tmp_path / "report")) for file in (tmp_path / "report").rglob("*")}
    assert set(server.names("bucket/report")) == ours
    assert server.read("bucket/report/entropy.csv") == (tmp_path / "report" / "entropy.csv").read_bytes()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"s3://tester:{PASSWORD}@bucket/x", "with a user or a password"),
        (f"s3://bucket/x?sse_customer_key={PASSWORD}", "option sse_customer_key"),
        ("s3://bucket/a/../b", "has '..' in its path"),
        ("tape://bucket/x", "that begins with tape:// cannot be used"),
    ],
)
def test_bad_places_are_refused_without_showing_secrets(bae_ray: Callable, tiny_store: Path, uri: str, said: str):
    code, out, err = bae_ray("sweep", "--store", tiny_store, "--out", uri, *OPTIONS)
    assert (code, out) == (2, "")
    assert said in err
    assert PASSWORD not in err


@pytest.mark.slow
def test_a_search_there_is_not_begun_again_elsewhere(
    server: Server, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    search = SearchConfig(scheduler="asha", grace_epochs=1, reduction=3)
    changed = {"search": search, "axes": ("training.lr=1e-2,1e-6,2e-6",), "cpus_per_trial": 4}
    config, uri = CONFIG.model_copy(update=changed), server.bare_uri("bucket/search")
    store = ActivationStore.open(tiny_store)
    first = sweep(config, store, uri)
    assert (first.trained, first.failures) == (1, [])
    logs = [server.read(f"bucket/search/{name}") for name in server.names("bucket/search") if "metrics" in name]
    assert len(logs) == 3
    assert all(log.splitlines() for log in logs), "what a stopped run has done is not told"
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))
    again = sweep(config, store, uri)
    assert (again.trained, again.failures) == (0, [])
    assert not [name for name in server.names("bucket/search") if name.startswith((".tune", ".claims"))]
