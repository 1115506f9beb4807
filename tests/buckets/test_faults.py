"""A bucket that refuses for a while or is slow, a server that is restarted, and a cache on a full disk."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bae_ray import storage
from bae_ray.files import append_text, at_hand, exists, move, read_text, remove, write_text
from bae_ray.locations import local_path
from bae_ray.system_errors import explain
from bae_ray.working_copies import reading, refresh, working
from tests.bucket import Proxy, Server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


def other_machine(path: Path, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path that another machine has for the same file."""
    monkeypatch.setenv("BAE_RAY_CACHE", str(cache.with_name(name)))
    return cache.with_name(name) / path.relative_to(cache)


def test_what_is_written_here_is_read_there_in_order(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
    run = local_path(server.bare_uri("bucket/order")) / "run"
    write_text(run / "metrics.jsonl", "one\n")
    append_text(run / "metrics.jsonl", "two\n")
    assert server.read("bucket/order/run/metrics.jsonl") == b"one\n"
    write_text(run / "state.safetensors", "state")
    assert server.read("bucket/order/run/metrics.jsonl") == b"one\ntwo\n"
    append_text(run / "metrics.jsonl", "three\n")
    there = other_machine(run, cache, "there", monkeypatch)
    assert refresh(there) is None
    assert {file.name for file in there.iterdir()} == {"metrics.jsonl"}
    assert exists(there / "state.safetensors")
    assert at_hand(there / "state.safetensors").read_text() == "state"
    refresh(run)
    assert read_text(run / "metrics.jsonl") == "one\ntwo\nthree\n", "lines that are not there yet are gone"
    write_text(run / "result.json", "{}")
    move(run / "result.json", run / "result-1.json")
    remove(run / "state.safetensors")
    refresh(there)
    assert {file.name: file.read_text() for file in there.iterdir()} == {
        "metrics.jsonl": "one\ntwo\nthree\n", "result-1.json": "{}", "state.safetensors": "state",
    } or not exists(there / "state.safetensors")  # fmt: skip
    assert at_hand(there / "state.safetensors").exists() is False
    assert sorted(server.names("bucket/order/run")) == ["metrics.jsonl", "result-1.json"]


def test_what_this_machine_has_beyond_the_bucket_is_gone_when_work_begins(server: Server):
    uri = server.bare_uri("bucket/exact")
    with working(uri, "a test") as out:
        write_text(out / "a" / "metrics.jsonl", "one\n")
        append_text(out / "a" / "metrics.jsonl", "two\n")
        (out / "a" / "half.json").write_text("never uploaded")
        write_text(out / "a" / "result.json", "{}")
        append_text(out / "a" / "metrics.jsonl", "three\n")
    server.files.delete_file("bucket/exact/a/result.json")
    old = time.time() - 100
    assert (out / "a" / "half.json").exists()
    time.sleep(1.1)
    with working(uri, "a test") as out:
        assert {file.name for file in (out / "a").iterdir()} == {"metrics.jsonl"}
        assert read_text(out / "a" / "metrics.jsonl") == "one\ntwo\n"
    assert old < (out / "a" / "metrics.jsonl").stat().st_mtime


def test_refusals_are_waited_for(server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "WAITS_S", (0.5,) * 20)
    out = local_path(server.bare_uri("bucket/refusing", proxy.port))
    proxy.refuse_for(7)
    write_text(out / "result.json", "{}")
    assert proxy.refused > 3
    assert reading(out) == out
    assert read_text(out / "result.json") == "{}"
    monkeypatch.setattr(storage, "WAITS_S", ())
    proxy.refuse_for(60)
    with pytest.raises(OSError, match=r"SLOW_DOWN|HTTP status 503"):
        write_text(out / "other.json", "{}")
    proxy.refuse_for(0)
    assert server.names("bucket/refusing") == ["result.json"]
    assert [file.name for file in out.iterdir()] == ["result.json"], "a file is here that is not there"


def test_slow_answers_are_waited_for(server: Server, proxy: Proxy):
    server.write("bucket/slow/run/result.json", b"{}")
    proxy.wait_s = 1.5
    out = reading(server.bare_uri("bucket/slow", proxy.port))
    assert read_text(out / "run" / "result.json") == "{}"


def test_nobody_there_is_said_at_once():
    began = time.monotonic()
    with pytest.raises(OSError, match=r"AWS Error NETWORK_CONNECTION|Couldn't connect|Could not connect"):
        reading("s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:1")
    assert time.monotonic() - began < 60


def test_a_full_disk_of_the_cache_is_said_and_nothing_is_lost(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        monkeypatch.setenv("BAE_RAY_CACHE", str(disk))
        out = local_path(server.bare_uri("bucket/full"))
        write_text(out / "first.json", "{}")
        for write in (
            lambda: write_text(out / "second.json", "x" * 2_000_000),
            lambda: at_hand(out / "large.safetensors"),
        ):
            server.write("bucket/full/large.safetensors", os.urandom(2_000_000))
            with pytest.raises(OSError) as error:  # noqa: PT011 - what it says is looked at
                write()
            said = explain(error.value)
            assert "No space left on device" in said
            assert f"{disk}, for this machine's copy of s3://bucket/full/" in said
            assert "BAE_RAY_CACHE" in said
            assert "Make room there" in said
        assert server.names("bucket/full") == ["first.json", "large.safetensors"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
