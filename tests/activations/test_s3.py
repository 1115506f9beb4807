"""Stores on an S3 server of this machine's."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from pyarrow import fs

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import CorruptShardError, IncompleteStoreError, InvalidInputError
from bae_ray.locations import without_credentials
from bae_ray.storage import folder_at
from tests.bucket import PASSWORD, USER, Server, cache, server

pytestmark = pytest.mark.usefixtures("ray_cluster")

__all__ = ["cache", "server"]
DAMAGED = "cells/residual/layer-02/position-00007/00001.safetensors"


@pytest.fixture(scope="module")
def remote(server: Server, tiny_config: ExtractConfig) -> str:
    """URI of the store of `tiny_config` in the server's bucket."""
    uri = server.uri("bucket/store")
    extract(tiny_config, uri)
    return uri


def matrix(store: ActivationStore, cell: Cell) -> torch.Tensor:
    return store.matrix(cell.layer, cell.position, cell.site)


def bytes_of(store: ActivationStore, cell: Cell) -> int:
    return sum(shard.files[cell.file(shard.shard)].size for shard in store.manifest.shards)


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_remote_store_is_the_local_one(remote: str, tiny_store: Path):
    theirs, ours = ActivationStore.open(tiny_store), ActivationStore.open(remote)
    assert ours.manifest == theirs.manifest
    pd.testing.assert_frame_equal(ours.rows, theirs.rows)
    for cell in theirs.cells:
        assert torch.equal(matrix(ours, cell), matrix(theirs, cell))
    batches = [
        torch.cat(list(store.iter_batches(3, 7, batch_size=32, seed=5, epoch=1))) for store in (ours, theirs)
    ]  # fmt: skip
    assert torch.equal(*batches)
    ours.verify()


def test_what_was_read_is_not_downloaded_again(server: Server, remote: str):
    store = ActivationStore.open(remote)
    first = matrix(store, store.cells[0])
    before = len(server.requests("GET|HEAD", "bucket"))
    assert torch.equal(matrix(store, store.cells[0]), first)
    assert len(server.requests("GET|HEAD", "bucket")) == before, "the server was asked again"
    assert torch.equal(matrix(ActivationStore.open(remote), store.cells[0]), first)
    assert set(server.requests("GET|HEAD", "bucket")[before:]) == {"bucket/store/manifest.json"}


def test_cache_keeps_to_its_limit(remote: str, cache: Path):
    complete = ActivationStore.open(remote)
    limit = 5 * bytes_of(complete, complete.cells[0]) // 2
    store = ActivationStore.open(remote, cache_gb=limit / 1e9)
    for cell in store.cells:
        assert bytes_of(store, cell) <= limit
        matrix(store, cell)
        assert 0 < bytes_in(cache) <= limit


def test_least_recently_used_go_first(server: Server, remote: str):
    complete = ActivationStore.open(remote)
    store = ActivationStore.open(remote, cache_gb=2.5 * bytes_of(complete, complete.cells[0]) / 1e9)
    old, used, new = store.cells[:3]

    def downloads(cell: Cell) -> int:
        before = len(server.requests("GET", f"bucket/store/cells/{cell.name}"))
        matrix(store, cell)
        return len(server.requests("GET", f"bucket/store/cells/{cell.name}")) - before

    shards = len(store.manifest.shards)
    assert [downloads(cell) for cell in (used, old, used, new)] == [shards, shards, 0, shards]
    assert downloads(used) == 0
    assert downloads(old) > 0


@pytest.mark.slow
def test_processes_share_a_cache_that_is_too_small_for_them(remote: str, tiny_store: Path, cache: Path):
    """As the workers of a sweep do: what one reads, another one's download has to make room for."""
    size = bytes_of(ActivationStore.open(remote), ActivationStore.open(remote).cells[0])

    @ray.remote(runtime_env={"env_vars": {"BAE_RAY_CACHE": str(cache)}})
    def read_all(seed: int) -> list[torch.Tensor]:
        store = ActivationStore.open(remote, cache_gb=1.5 * size / 1e9)
        order = [*store.cells] * 4
        random.Random(seed).shuffle(order)
        read = {cell: store.matrix(cell.layer, cell.position, cell.site).clone() for cell in order}
        return [read[cell] for cell in store.cells]

    local = ActivationStore.open(tiny_store)
    for found in ray.get([read_all.remote(seed) for seed in range(3)]):
        assert all(torch.equal(ours, matrix(local, cell)) for ours, cell in zip(found, local.cells, strict=True))
    assert bytes_in(cache) <= 1.5 * size


def test_cell_larger_than_the_cache_is_refused(remote: str, cache: Path):
    store = ActivationStore.open(remote, cache_gb=1e-6)
    with pytest.raises(InvalidInputError, match=r"of s3://bucket/store are needed at once.* Open .* a larger cache_gb"):
        matrix(store, store.cells[0])
    assert bytes_in(cache) == 0


def test_damaged_copy_in_the_cache_is_downloaded_again(remote: str, cache: Path):
    store = ActivationStore.open(remote)
    intact = matrix(store, store.cells[0]).clone()
    for copy in cache.rglob("*"):
        if copy.is_file():
            copy.write_bytes(b"\0" * copy.stat().st_size)
    assert torch.equal(matrix(ActivationStore.open(remote), store.cells[0]), intact)


@pytest.mark.parametrize(
    ("content", "said"), [(b"other bytes", "has checksum"), (None, "is missing")], ids=["changed", "removed"]
)
def test_damaged_object_is_named(server: Server, remote: str, content: bytes | None, said: str):
    path = f"bucket/store/{DAMAGED}"
    intact = server.read(path)
    try:
        if content is None:
            server.files.delete_file(path)
        else:
            server.write(path, content)
        store = ActivationStore.open(remote)
        for read in (store.verify, lambda: store.matrix(2, 7)):
            with pytest.raises(CorruptShardError, match=f"{DAMAGED} {said}") as error:
                read()
            assert PASSWORD not in str(error.value)
        assert len(store.matrix(2, 2)) == store.manifest.n
    finally:
        server.write(path, intact)
    store.verify()


def test_interrupted_extraction_computes_only_what_is_missing(server: Server, tiny_config, remote: str, tiny_store):
    for name in ("manifest.json", "receipts/00001.json"):
        server.files.delete_file(f"bucket/store/{name}")
    with pytest.raises(IncompleteStoreError, match="Run the same extraction again"):
        ActivationStore.open(remote)
    before = len(server.requests("PUT|POST", "bucket/store/"))
    store = extract(tiny_config, remote)
    assert store.manifest == ActivationStore.open(tiny_store).manifest
    written = set(server.requests("PUT|POST", "bucket/store/")[before:])
    shard = {f"bucket/store/{cell.file(1)}" for cell in store.cells} | {"bucket/store/receipts/00001.json"}
    assert {name for name in written if "/cells/" in name or "/receipts/" in name} == shard
    store.verify()


def arguments(config: ExtractConfig) -> list[object]:
    return [
        "--model", config.model, "--corpus", config.corpus, "--positions", *config.positions,
        "--shard-size", config.shard_size, "--batch-size", config.batch_size, "--gpus-per-worker", 0,
    ]  # fmt: skip


def test_commands_take_the_uri_and_show_no_credentials(bae_ray: Callable, server: Server, tiny_config, remote: str):
    printed: list[str] = []
    for command, said in [
        (["extract", *arguments(tiny_config), "--out", remote], "in s3://bucket/store"),
        (["store", "info", "--store", remote], "s3://bucket/store"),
        (["store", "verify", "--store", remote], "s3://bucket/store: "),
    ]:
        code, out, err = bae_ray(*command)
        assert code == 0, err
        assert said in out
        printed += [out, err]
    assert PASSWORD not in "".join(printed)
    stored = server.files.get_file_info(fs.FileSelector("bucket/store", recursive=True))
    names = [info.path for info in stored if info.type == fs.FileType.File]
    assert len(names) > 40
    assert [name for name in names if PASSWORD.encode() in server.read(name)] == []
    assert json.loads(server.read("bucket/store/extract.json"))["out"].startswith("s3://bucket/store?scheme=http")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://{}:{}@bucket/store?scheme=http&endpoint_override=localhost:9000&region=eu",
         "s3://bucket/store?scheme=http&endpoint_override=localhost:9000&region=eu"),
        ("s3://bucket/store?sse_customer_key={1}&scheme=http", "s3://bucket/store?scheme=http"),
        ("abfs://bucket/store?client_secret={1}&client_id={0}#{1}", "abfs://bucket/store"),
        ("https://host/store?X-Amz-Signature={1}", "https://host/store"),
        ("runs/with?client_secret=no", "runs/with?client_secret=no"),
    ],
)  # fmt: skip
def test_locations_are_shown_without_their_secrets(location: str, shown: str):
    assert without_credentials(location.format(USER, PASSWORD)) == shown


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://{}:{}@bucket/store?nonsense=1", "Unexpected query parameter"),
        ("tape://{}:{}@bucket/store", "that begins with tape:// cannot be used"),
    ],
)
def test_bad_uri_is_refused_without_showing_credentials(uri: str, said: str):
    with pytest.raises(InvalidInputError, match=said) as error:
        folder_at(uri.format(USER, PASSWORD))
    assert PASSWORD not in str(error.value)


def test_no_store_at_a_uri_is_said_without_showing_credentials(server: Server):
    for path in ("bucket/nothing", "no-such-bucket/store"):
        with pytest.raises(IncompleteStoreError, match=f"s3://{path} holds no finished activation store") as error:
            ActivationStore.open(server.uri(path))
        assert PASSWORD not in str(error.value)


def test_server_that_cannot_be_reached_is_refused_at_once(
    server: Server, tiny_config: ExtractConfig, capsys: pytest.CaptureFixture[str]
):
    nobody = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", server.uri("bucket/other"))
    with pytest.raises(InvalidInputError, match=r"s3://bucket/other cannot be written to.*Could not connect") as error:
        extract(tiny_config, nobody)
    assert PASSWORD not in str(error.value)
    assert "Plan" not in capsys.readouterr().err
