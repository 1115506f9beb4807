"""The client against the real service; and against a server that answers 429 and 503, which ours does when it must."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import httpx
import numpy as np
import pandas as pd
import pytest
import torch

from bae_ray import client as c
from bae_ray import load_autoencoder
from bae_ray.client import AsyncClient, Client
from bae_ray.client.clients import _wait
from bae_ray.client.service_errors import error_of
from bae_ray.compression import compress_activations
from bae_ray.errors import InvalidInputError
from bae_ray.serving.ray_serve.ports import free_port
from tests.serving.support import KEY, LIMITS, NARROW_KEY, D, F, Served

x = np.random.default_rng(5).normal(size=(9, D)).astype(np.float32) * 3


@pytest.fixture
def bae(served: Served):
    return load_autoencoder(served.registry / "bae")


def test_what_comes_back_is_of_the_kind_that_was_given(client: Client, bae):
    wanted = bae.encode(torch.from_numpy(x)).numpy()
    assert np.array_equal(client.encode("bae", x), wanted)
    assert np.array_equal(client.encode("bae", x.tolist()), wanted)
    as_torch = client.encode("bae", torch.from_numpy(x))
    assert isinstance(as_torch, torch.Tensor)
    assert np.array_equal(as_torch.numpy(), wanted)
    frame = client.encode("bae", pd.DataFrame(x, index=list("abcdefghi")))
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == list("abcdefghi")
    assert np.array_equal(frame.to_numpy(), wanted)
    assert isinstance(client.encode("bae", x, returns="pandas"), pd.DataFrame)
    assert np.array_equal(client.encode("bae", x, packed=True), np.packbits(wanted.astype(bool), axis=1))


def test_indices_come_back_so_too_though_each_row_has_another_number_of_them(client: Client, bae):
    wanted = [row.nonzero().squeeze(1).tolist() for row in bae.encode(torch.from_numpy(x))]
    assert len({len(row) for row in wanted}) > 1
    as_torch = client.indices("bae", torch.from_numpy(x))
    assert all(isinstance(row, torch.Tensor) for row in as_torch)
    assert [row.tolist() for row in as_torch] == wanted
    series = client.indices("bae", pd.DataFrame(x, index=list("abcdefghi")))
    assert list(series.index) == list("abcdefghi")
    assert [row.tolist() for row in series] == wanted
    assert isinstance(client.indices("bae", torch.from_numpy(x), returns="numpy")[0], np.ndarray)


def test_every_call(client: Client, served: Served, bae):
    code = bae.encode(torch.from_numpy(x))
    assert set(client.encoders()["id"]) >= {"bae", "relu", "run", "cut"}
    assert client.encoder("bae")["d_latent"] == F
    assert [row.tolist() for row in client.indices("bae", x)] == [row.nonzero()[0].tolist() for row in code.numpy()]
    wanted = bae.magnitudes(torch.from_numpy(x))
    assert np.allclose(client.magnitudes("bae", x), wanted.numpy(), atol=1e-5)
    indices, magnitudes = client.magnitudes("bae", x, top_k=3)
    assert np.allclose(magnitudes, wanted.topk(3, dim=1).values.numpy(), atol=1e-5)
    assert np.array_equal(client.indices("bae", x, top_k=3), indices)
    x_hat = bae.decode(code).numpy()
    for given in (code.numpy(), code, np.packbits(code.numpy().astype(bool), axis=1)):
        assert np.allclose(np.asarray(client.decode("bae", given)), x_hat, atol=1e-4)
    relu = load_autoencoder(served.registry / "relu")
    latents = relu.encode(torch.from_numpy(x))
    assert np.allclose(client.decode("relu", latents.numpy()), relu.decode(latents).numpy(), atol=1e-4)
    for scheme in ("entropy", "tree", "auto"):
        containers = client.compress("bae", x, scheme=scheme)
        assert np.allclose(client.decompress("bae", containers), x_hat, atol=1e-4)
    feature = client.feature("bae", 3)
    assert feature.firing_rate == pytest.approx(float(bae.prior[3]))
    assert len(feature.similar) == 10
    tokens = client.encode_texts("run", ["w1 w2", "w3"] * 4, top_k=2)
    assert len(tokens) == 12, "8 texts, which the service takes 4 at a time"
    assert tokens["text"].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    assert tokens["features"][0].shape == (2,)


def test_what_is_more_than_the_limits_goes_in_parts(client: Client, bae):
    many = np.random.default_rng(6).normal(size=(2 * LIMITS.max_rows + 3, D)).astype(np.float32)
    wanted = bae.encode(torch.from_numpy(many)).numpy()
    assert np.array_equal(client.encode("bae", many), wanted)
    assert len(client.compress("bae", many)) == 3
    assert np.allclose(
        client.decompress("bae", client.compress("bae", many)), bae.decode(torch.from_numpy(wanted)), atol=1e-4
    )
    one = compress_activations(bae, torch.from_numpy(many), block_rows=64)  # as of bae-ray compress
    assert np.allclose(client.decompress("bae", one), bae.decode(torch.from_numpy(wanted)), atol=1e-4)
    texts = ["w1 " * LIMITS.max_tokens] * (LIMITS.max_texts + 1)
    assert len(client.encode_texts("run", texts, top_k=F)) == LIMITS.max_tokens * len(texts)


def test_async(served: Served, bae):
    async def ask() -> list[np.ndarray]:
        async with AsyncClient(served.url, KEY) as asked:
            return await asyncio.gather(*(asked.encode("bae", x[i : i + 2]) for i in range(8)))

    code = bae.encode(torch.from_numpy(x)).numpy()
    for i, found in enumerate(asyncio.run(ask())):
        assert np.array_equal(found, code[i : i + 2])


def test_errors_are_typed(client: Client, served: Served):
    with pytest.raises(c.NotFoundError) as error:
        client.encode("nobody", x)
    assert (error.value.status, error.value.code) == (404, "encoder_not_found")
    assert error.value.request_id
    with pytest.raises(c.InvalidRequestError) as invalid:
        client.encode("bae", x[:, :3])
    assert invalid.value.code == "wrong_width"
    with pytest.raises(InvalidInputError, match="broken"):
        client.encode("cut", x)
    with pytest.raises(InvalidInputError, match=r"\[n, d\]"):
        client.encode("bae", x[0])
    with Client(served.url) as anyone, pytest.raises(c.AuthenticationError):
        anyone.encoders()
    with Client(served.url, NARROW_KEY) as narrow, pytest.raises(c.NotAllowedError):
        narrow.encode("bae", x)
    nobody = f"http://127.0.0.1:{free_port()}"
    with Client(nobody) as lonely, pytest.raises(c.UnreachableError, match=nobody):
        lonely.encoders()


class Busy(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses in the list, one after the other, and then with an empty list of encoders."""

    statuses: ClassVar[list[int]] = []
    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        status = self.statuses.pop(0) if self.statuses else 200
        body = json.dumps({"encoders": []} if status == 200 else {"code": "x", "detail": "y"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def busy() -> Iterator[str]:
    Busy.seen = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("statuses", "seen", "error"),
    [
        ([429, 503], 3, None),
        ([429, 429, 429], 3, c.OverloadedError),
        ([503, 503, 503], 3, c.UnavailableError),
        ([500], 1, c.ServiceError),
        ([504], 1, c.DeadlineError),
        ([404], 1, c.NotFoundError),
    ],
)
def test_only_429_and_503_are_sent_again(busy: str, statuses: list[int], seen: int, error: type | None, is_async: bool):
    Busy.statuses = list(statuses)

    async def ask() -> object:
        async with AsyncClient(busy, retries=2) as client:
            return await client.encoders()

    def call() -> object:
        if is_async:
            return asyncio.run(ask())
        with Client(busy, retries=2) as client:
            return client.encoders()

    if error is None:
        call()
    else:
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
    assert Busy.seen == seen


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"retry-after": "30"}, {}, 30),
        (503, {"retry-after": "1"}, {"code": "unavailable"}, 10),
        (503, {}, {}, 10),
        (429, {"retry-after": "3600"}, {}, None),
        (429, {"retry-after": "9" * 400}, {}, None),
        (503, {}, {"code": "encoder_broken"}, None),
    ],
)
def test_the_pause_is_as_long_as_the_service_asks_for(
    status: int, headers: dict[str, str], body: dict[str, str], seconds: float | None
):
    """At the ninth try, where the client's own pauses have grown to 10 seconds."""
    assert _wait(httpx.Response(status, headers=headers, json=body), 8, 10) == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, c.OverloadedError), (502, c.ServiceError), (503, c.UnavailableError), (504, c.DeadlineError)],
)
def test_answers_of_proxies_in_plain_text_are_told_by_their_status(status: int, kind: type):
    error = error_of(httpx.Response(status, text="Request dropped due to backpressure"))
    assert type(error) is kind
    assert (error.status, error.code) == (status, None)
