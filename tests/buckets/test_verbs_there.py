"""Compression, measures and a registry in a bucket, beside the same on this machine."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import feature_statistics
from bae_ray.autoencoders import BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.files import remove_folder
from bae_ray.locations import local_path, with_locations
from bae_ray.serving.registry import registry as registry_module
from bae_ray.serving.registry.registry import Registry
from tests.bucket import Server

pytestmark = pytest.mark.usefixtures("ray_cluster")
CELL = ("--layer", "2", "--position", "7")
CONTAINER = "residual/layer-02/position-00007.codes"


def save(path: Path, store: Path, seed: int = 1) -> Path:
    """An untrained binary autoencoder of a cell."""
    x = ActivationStore.open(store).matrix(2, 7)
    autoencoder = build_autoencoder(BAEConfig(d_in=x.shape[1], d_latent=24)).requires_grad_(False).eval()
    autoencoder.reset_parameters(torch.Generator().manual_seed(seed))
    feature_statistics(autoencoder, x).set_reference(autoencoder)
    autoencoder.save_pretrained(path)
    return path


def test_containers_are_those_of_this_machine(
    bae_ray: Callable, server: Server, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here, uri = save(tmp_path / "bae", tiny_store), server.bare_uri("bucket/codec/bae")
    save(local_path(uri), tiny_store)
    assert load_autoencoder(uri).source == "bae"
    there = server.bare_uri("bucket/codec/out")
    for autoencoder, out in ((here, tmp_path / "out"), (uri, there)):
        code, printed, err = bae_ray(
            "compress", "--source", tiny_store, "--autoencoder", autoencoder, "--out", out, *CELL, "--part-rows", "64"
        )
        assert code == 0, err
        assert "position-00007" in printed
    ours = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert set(server.names("bucket/codec/out")) == ours
    (name,) = [name for name in ours if name.endswith((".codes", ".codes.safetensors"))]
    assert server.read(f"bucket/codec/out/{name}") == (tmp_path / "out" / name).read_bytes()
    assert json.loads(server.read("bucket/codec/out/compress.json"))["out"] == there

    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))  # a machine that has none of it
    before = len(server.requests("PUT|POST", f"bucket/codec/out/{name}"))
    again = ("compress", "--source", tiny_store, "--autoencoder", uri, "--out", there, *CELL, "--part-rows", "64")
    assert bae_ray(*again)[0] == 0
    assert len(server.requests("PUT|POST", f"bucket/codec/out/{name}")) == before
    code, printed, err = bae_ray(
        "decompress", "--source", there, "--autoencoder", uri, "--out", server.bare_uri("bucket/codec/arrays")
    )
    assert code == 0, err
    assert (
        bae_ray("decompress", "--source", tmp_path / "out", "--autoencoder", here, "--out", tmp_path / "arrays")[0] == 0
    )
    (array,) = [file for file in (tmp_path / "arrays").rglob("*") if file.suffix in (".npy", ".safetensors")]
    theirs = server.read(f"bucket/codec/arrays/{array.relative_to(tmp_path / 'arrays')}")
    assert theirs == array.read_bytes()

    server.write("bucket/codec/x.npy", npy(tiny_store, tmp_path))
    out = server.bare_uri("bucket/codec/of_file")
    source = server.bare_uri("bucket/codec/x.npy")
    code, printed, err = bae_ray("compress", "--source", source, "--autoencoder", uri, "--out", out)
    assert code == 0, err
    assert len([one for one in server.names("bucket/codec/of_file") if ".codes" in one and "receipts" not in one]) == 1


def npy(store: Path, folder: Path) -> bytes:
    np.save(folder / "x.npy", ActivationStore.open(store).matrix(2, 7).numpy())
    return (folder / "x.npy").read_bytes()


def test_measures_are_those_of_this_machine(bae_ray: Callable, server: Server, tiny_store: Path, tmp_path: Path):
    uri = server.bare_uri("bucket/measures")
    for out in (tmp_path / "measures", uri):
        code, printed, err = bae_ray(
            "measure", "--store", tiny_store, "--out", out, "--layers", "2", "--positions", "7"
        )
        assert code == 0, err
    assert "s3://bucket/measures/" in printed
    ours = {
        str(file.relative_to(tmp_path / "measures")) for file in (tmp_path / "measures").rglob("*") if file.is_file()
    }
    assert set(server.names("bucket/measures")) == ours
    for name in ours:
        if name.endswith((".json", ".csv")):
            mine = (tmp_path / "measures" / name).read_text()
            assert server.read(f"bucket/measures/{name}").decode() == mine


def test_a_registry_there_shows_what_comes_and_goes(
    server: Server, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry_module, "COPY_AGAIN_S", 0.0)
    uri = server.bare_uri("bucket/registry")
    save(local_path(uri) / "first", tiny_store)
    here = save(tmp_path / "registry" / "first", tiny_store)
    server.write("bucket/registry/first/metrics.jsonl", b"{}\n")
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))
    registry, local = Registry(local_path(uri)), Registry(tmp_path / "registry")
    (entry,), (ours,) = registry.look().values(), local.look().values()
    assert entry._replace(folder=here, version=ours.version) == ours
    for name, value in load_file(here / "model.safetensors").items():
        assert torch.equal(load(server.read("bucket/registry/first/model.safetensors"))[name], value)
    save(local_path(uri) / "second", tiny_store, seed=2)
    assert set(registry.look()) == {"first", "second"}
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "third"))
    other = Registry(local_path(uri))
    assert {one.key for one in other.look().values()} == {one.key for one in registry.look().values()}
    remove_folder(local_path(uri) / "first")
    time.sleep(1.1)  # what has just been copied here may be newer than the list of what is there
    assert set(registry.look()) == set(other.look()) == {"second"}
    assert with_locations(str(local_path(uri))) == "s3://bucket/registry"
