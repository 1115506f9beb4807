"""The client's calls that steer and measure fidelity, both clients, against the routes."""

import asyncio

import httpx
import pandas as pd
import pytest

from bae_ray import client as c
from bae_ray.client import AsyncClient, Client, Steered, SteeredToken
from tests.serving.support import KEY, LIMITS, F, Served

TEXT = "w3 w14 w15 w9"


def test_steering_is_that_of_the_route(client: Client, http: httpx.Client):
    body = {"text": TEXT, "add": [{"feature": 3, "strength": 2.0}], "clamp": [{"feature": 4, "value": 1.0}], "seed": 2}
    wanted = http.post(
        "/v1/encoders/run/texts/steer", json={**body, "ablate": [6]}, headers={"accept": "application/json"}
    ).json()
    found = client.steer("run", TEXT, add={3: 2.0}, clamp={4: 1.0}, ablate=[6], seed=2)
    assert isinstance(found, Steered)
    for side in ("steered", "plain"):
        assert getattr(found, side)._asdict() == wanted[side]


def test_both_clients_stream_the_same(served: Served, client: Client):
    whole = client.steer("run", TEXT, ablate=[1, 2], tokens="all", max_new_tokens=9)
    *tokens, last = client.steer_stream("run", TEXT, ablate=[1, 2], tokens="all", max_new_tokens=9)
    assert last == whole
    assert all(isinstance(token, SteeredToken) for token in tokens)
    assert "".join(token.text for token in tokens if token.side == "steered") == whole.steered.text

    async def main() -> list[SteeredToken | Steered]:
        async with AsyncClient(served.url, KEY) as other:
            assert await other.steer("run", TEXT, ablate=[1, 2], tokens="all", max_new_tokens=9) == whole
            frame = await other.fidelity("run", [TEXT, "w1 w2"])
            assert list(frame["tokens"]) == [3, 1]
            stream = other.steer_stream("run", TEXT, ablate=[1, 2], tokens="all", max_new_tokens=9)
            return [event async for event in stream]

    assert asyncio.run(main()) == [*tokens, last]


def test_a_stream_that_is_left_can_be_followed_by_other_calls(client: Client):
    for token in client.steer_stream("run", TEXT, ablate=[1]):
        assert isinstance(token, SteeredToken)
        break
    assert client.steer("run", TEXT, ablate=[1], max_new_tokens=2).plain.text


def test_fidelity_of_more_texts_than_a_request_takes(client: Client):
    texts = [TEXT] * (LIMITS.max_texts + 1) + ["w5 w6 w7"]
    found = client.fidelity("run", texts, first=False)
    assert isinstance(found, pd.DataFrame)
    assert list(found["tokens"]) == [2] * (len(texts) - 1) + [1]
    pd.testing.assert_series_equal(found.iloc[0], client.fidelity("run", TEXT, first=False).iloc[0])


def test_errors_are_those_of_other_calls(served: Served, client: Client):
    for call in (client.steer, lambda *a, **o: list(client.steer_stream(*a, **o))):
        with pytest.raises(c.InvalidRequestError, match=f"has the features 0 to {F - 1}"):
            call("run", TEXT, ablate=[F])
        with pytest.raises(c.NotFoundError):
            call("nobody", TEXT, ablate=[1])
        with pytest.raises(c.RequestTooLargeError):
            call("run", "w1 " * (LIMITS.max_tokens + 1), ablate=[1])
    with Client(served.url, "wrong") as other, pytest.raises(c.AuthenticationError):
        next(other.steer_stream("run", TEXT, ablate=[1]))
    with Client("http://127.0.0.1:9", KEY) as other, pytest.raises(c.UnreachableError):
        next(other.steer_stream("run", TEXT, ablate=[1]))


@pytest.mark.parametrize("events", ["", 'event: token\ndata: {"side": "plain", "token_id": 1, "text": "a"}\n\n'])
def test_a_stream_that_ends_too_soon_is_no_success(events: str):
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})

    client, other = Client("http://service"), AsyncClient("http://service")
    client._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")
    other._http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service")
    with pytest.raises(c.UnreachableError, match="before all of it was there"):
        list(client.steer_stream("run", TEXT, ablate=[1]))

    async def main() -> None:
        async for _ in other.steer_stream("run", TEXT, ablate=[1]):
            pass

    with pytest.raises(c.UnreachableError, match="before all of it was there"):
        asyncio.run(main())


def test_what_is_left_out_or_none_is_as_the_service_has_it(client: Client):
    import numpy as np

    options = {"ablate": [np.int64(1)], "seed": np.int64(3), "max_new_tokens": np.int32(4)}
    assert client.steer("run", TEXT, add=None, clamp=None, **options) == client.steer(
        "run", TEXT, ablate=[1], seed=3, max_new_tokens=4
    )
    with pytest.raises(TypeError):
        client.steer("run", TEXT, ablate=[1.7])  # pyright: ignore[reportArgumentType]
