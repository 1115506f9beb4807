"""Keys: read again when their file changes, and what each may ask for."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import EncodersConfig, GatewayConfig, ServiceConfig
from bae_ray.serving.http.keys import Caller, KeyFile, Keys, read_keys
from bae_ray.serving.http.limits import Quotas
from bae_ray.serving.http.problems import Problem
from tests.serving.support import LIMITS, D, Served, until

OLD, NEW = "o" * 32, "n" * 32


def write(file: Path, text: str) -> None:
    """As an editor does: in one step."""
    file.with_suffix(".new").write_text(text)
    os.replace(file.with_suffix(".new"), file)


def test_keys_are_those_of_the_file_as_it_is_now(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "keys"
    file.write_text(f"{OLD} name=old\n")
    keys = KeyFile(read_keys(file), file)
    assert keys.look()
    assert keys.find(OLD) == Caller("old")
    write(file, f"{NEW} name=new\n")
    assert keys.look()
    assert (keys.find(OLD), keys.find(NEW)) == (None, Caller("new"))
    with open(file, "a") as appended:  # in place
        appended.write(f"{OLD} name=again\n")
    assert keys.look()
    assert keys.find(OLD) == Caller("again")
    for text in ("", "short\n", "\xff" * 40, f"{OLD} inflight=0\n"):
        file.write_bytes(text.encode("latin-1"))
        caplog.clear()
        for _ in range(3):
            assert not keys.look()
        assert keys.find(NEW) == Caller("new"), "a damaged file takes no key away"
        assert caplog.text.count("stay in force") == 1
    file.unlink()
    assert not keys.look()
    os.mkfifo(file)
    assert not keys.look()
    assert "is a FIFO" in caplog.text
    file.unlink()
    write(file, f"{OLD} name=old\n")
    assert keys.look()
    assert (keys.find(OLD), keys.find(NEW)) == (Caller("old"), None)


def test_a_read_that_failed_is_made_again_of_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a network folder that was away for a moment: the file is as it was."""
    file = tmp_path / "keys"
    file.write_text(f"{OLD} name=old\n")
    keys = KeyFile(read_keys(file), file)
    assert keys.look()
    write(file, f"{NEW} name=new\n")

    def fails(_file: Path) -> Keys:
        raise InvalidInputError("the network is away")

    with monkeypatch.context() as patched:
        patched.setattr("bae_ray.serving.http.keys.read_keys", fails)
        assert not keys.look()
        assert keys.find(OLD) == Caller("old")
    assert keys.look()
    assert (keys.find(OLD), keys.find(NEW)) == (None, Caller("new"))


def test_a_file_that_was_away_is_the_same_again(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"{OLD} name=old\n")
    keys = KeyFile(read_keys(file), file)
    assert keys.look()
    file.rename(tmp_path / "away")
    assert not keys.look()
    (tmp_path / "away").rename(file)
    assert keys.look()


@pytest.mark.parametrize(
    "option", ["inflight=0", "inflight=-1", "per_minute=x", "per_minute=1.5", "inflight=", "rows=1"]
)
def test_limits_that_are_none_are_refused(tmp_path: Path, option: str):
    (tmp_path / "keys").write_text(f"{OLD} {option}\n")
    with pytest.raises(InvalidInputError, match=r"line 1 .* \[per_minute=N\]"):
        read_keys(tmp_path / "keys")


def test_limits_are_read(tmp_path: Path):
    (tmp_path / "keys").write_text(f"{OLD} name=a encoders=x* inflight=8 per_minute=600\n{NEW} name=b\n")
    keys = read_keys(tmp_path / "keys")
    assert keys.find(OLD) == Caller("a", ("x*",), 8, 600)
    assert keys.find(NEW) == Caller("b", ("*",), None, None)


@given(
    per_minute=st.integers(1, 200),
    waits=st.lists(st.floats(0, 10), min_size=1, max_size=300),
)
def test_no_minute_has_more_requests_than_twice_the_limit_and_what_is_evenly_spaced_passes(
    per_minute: int, waits: list[float]
):
    """At most a full bucket and what came back meanwhile: an independent count of what was let in."""
    now, passed, refused = 0.0, [], []
    quotas = Quotas(lambda: now)
    caller = Caller("a", per_minute=per_minute)
    for wait in waits:
        now += wait
        try:
            quotas.enter(caller)
        except Problem as problem:
            refused.append((problem.code, int(problem.headers["retry-after"])))
        else:
            passed.append(now)
    assert all(code == "overloaded" and 1 <= retry_s <= -(-60 // per_minute) for code, retry_s in refused)
    for start in passed:
        within = sum(start <= at <= start + 60 for at in passed)
        assert within <= 2 * per_minute
    even = Quotas(lambda: now)
    for _ in range(3 * per_minute):
        even.enter(caller)
        now += 60 / per_minute + 1e-6
    assert len(passed) >= min(len(waits), per_minute)


def test_requests_under_way_are_limited_by_name():
    quotas, caller, other = Quotas(), Caller("a", inflight=2), Caller("b", inflight=2)
    quotas.enter(caller)
    quotas.enter(caller)
    with pytest.raises(Problem, match="2 requests under way"):
        quotas.enter(caller)
    quotas.enter(other)
    quotas.leave(caller)
    quotas.enter(caller)


def test_keys_without_limits_have_none():
    quotas = Quotas(lambda: 0.0)
    for _ in range(10_000):
        quotas.enter(Caller("a"))


@pytest.fixture
def keyed(served: Served, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The service once more, with keys in a file."""
    from ray import serve

    from bae_ray.serving.app import build

    file = tmp_path / "keys"
    file.write_text(f"{OLD} name=old\n")
    config = ServiceConfig(
        registry=served.registry,
        keys_file=file,
        limits=LIMITS,
        gateway=GatewayConfig(num_cpus=0),
        encoders=EncodersConfig(num_cpus=0),
    )
    serve.run(build(config), name="keyed", route_prefix="/keyed")
    yield f"{served.url}/keyed", file
    serve.delete("keyed")


def test_a_service_goes_by_the_file_and_by_what_each_key_may(keyed: tuple[str, Path]):
    url, file = keyed

    def status(key: str, path: str = "/v1/encoders") -> int:
        return httpx.get(f"{url}{path}", headers={"authorization": f"Bearer {key}"}, timeout=60).status_code

    def current() -> str:
        page = httpx.get(f"{url}/metrics").text
        return next(line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith("bae_ray_keys_current{"))

    assert (status(OLD), status(NEW), current()) == (200, 401, "1.0")
    write(file, f"{NEW} name=new per_minute=30 inflight=1\n")
    until(lambda: status(OLD) == 401, 5)
    assert status(NEW) == 200
    file.write_text("damaged")
    until(lambda: current() == "0.0", 5)
    assert (status(OLD), status(NEW)) == (401, 200)
    answers = [
        httpx.get(f"{url}/v1/encoders", headers={"authorization": f"Bearer {NEW}"}, timeout=60) for _ in range(40)
    ]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "overloaded"
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    write(file, f"{OLD} name=old inflight=1\n")
    until(lambda: status(OLD) == 200, 5)

    async def together() -> list[int]:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {OLD}"}, timeout=60) as http:
            body = {"x": [[0.0] * D] * 200}
            calls = [http.post(f"{url}/v1/encoders/bae/encode", json=body) for _ in range(8)]
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    codes = asyncio.run(together())
    assert set(codes) == {200, 429}
    assert status(OLD) == 200, "what has ended counts no more"


def test_without_a_file_nothing_is_watched():
    told: list[bool] = []
    KeyFile(Keys({}), None).watch(told.append)
    assert told == []
