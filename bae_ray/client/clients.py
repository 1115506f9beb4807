"""The clients: one that blocks, and one for asyncio."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self, TypeVar

import httpx
from typing_extensions import override

from bae_ray.client import endpoints
from bae_ray.client.array_types import Returns
from bae_ray.client.requests import Call, Encoders, Flow, get_encoder
from bae_ray.client.service_errors import ServiceError, UnreachableError, error_of

T = TypeVar("T")
RETRIED = (429, 503)
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
"""The longest pause that the client chooses itself."""
LONGEST_ASKED_S = 120.0
"""The longest pause that the service may ask for; beyond it, the call fails."""
FINAL = ("encoder_broken",)
"""Codes of a 503 that are not sent again."""


class _Calls(ABC):
    """The calls; `AsyncClient`'s are to be awaited.

    `x` and `code` may be numpy arrays, torch tensors, data frames or lists; results are of the same kind, or of the
    one that `returns` names. What is more than the service takes at once is sent in parts. Every call raises a
    `ServiceError`: see `bae_ray.client.service_errors`.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout: float = 120, retries: int = 5
    ) -> None:
        """A client of the service at `url`. `key`: the bearer key. `timeout`: seconds to wait for an answer.

        `retries`: how often a request is sent again after 429 or 503 (but `encoder_broken`), with growing pauses, none
        shorter than the service asks for; where it asks for more than two minutes, the call fails at once.
        """
        self._retries = retries
        self._known: Encoders = {}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._options: dict[str, Any] = {"base_url": url, "timeout": timeout, "headers": headers}

    @abstractmethod
    def _run(self, flow: Flow[Any]) -> Any:
        """Send a flow's calls and return its result; a call that fails raises inside the flow."""

    def encoders(self) -> Any:
        """A data frame with a row per encoder of the registry."""
        return self._run(endpoints.list_encoders())

    def encoder(self, encoder_id: str) -> Any:
        """What the service says of an encoder, its limits included: a dict."""
        return self._run(get_encoder(encoder_id))

    def encode(self, encoder_id: str, x: Any, *, packed: bool = False, returns: Returns = "same") -> Any:
        """Codes [n, d_latent] of activations [n, d_in], uint8 of 0 and 1; `packed`: [n, ceil(d_latent / 8)]."""
        return self._run(endpoints.encode(self._known, encoder_id, x, packed, returns))

    def indices(self, encoder_id: str, x: Any, *, top_k: int | None = None, returns: Returns = "same") -> Any:
        """The latents that fire, an array for each row, in a list or series; with `top_k` [n, top_k], largest first."""
        return self._run(endpoints.indices(self._known, encoder_id, x, top_k, returns))

    def magnitudes(self, encoder_id: str, x: Any, *, top_k: int | None = None, returns: Returns = "same") -> Any:
        """Magnitudes (burstiness) [n, n_features]; with `top_k` the pair indices, magnitudes, each [n, top_k]."""
        return self._run(endpoints.magnitudes(self._known, encoder_id, x, top_k, returns))

    def decode(self, encoder_id: str, code: Any, *, returns: Returns = "same") -> Any:
        """Activations [n, d] of codes [n, d_latent], packed codes, or latents of an encoder that is not binary."""
        return self._run(endpoints.decode(self._known, encoder_id, code, returns))

    def compress(
        self,
        encoder_id: str,
        x: Any,
        *,
        scheme: str = "entropy",
        threshold: float | None = None,
        table: Literal["reference", "embedded"] | None = None,
    ) -> Any:
        """Activations as containers of the codec (bytes), one for each request that it took.

        `table`: by default `reference`, to the encoder's firing rates; `embedded` for containers whose codes can be
        read without the encoder.
        """
        params = {"scheme": scheme, "threshold": threshold, "table": table}
        return self._run(endpoints.compress(self._known, encoder_id, x, params))

    def decompress(
        self, encoder_id: str, data: endpoints.Bytes | Sequence[endpoints.Bytes], *, returns: Returns = "numpy"
    ) -> Any:
        """The activations [n, d] in containers."""
        return self._run(endpoints.decompress(self._known, encoder_id, data, returns))

    def feature(self, encoder_id: str, index: int) -> Any:
        """What the encoder says of a feature: a `Feature`."""
        return self._run(endpoints.feature(encoder_id, index))

    def encode_texts(self, encoder_id: str, texts: str | Sequence[str], *, top_k: int = 8) -> Any:
        """A data frame with a row per token: text, token_id, token, start, end, features, magnitudes."""
        return self._run(endpoints.encode_texts(self._known, encoder_id, texts, top_k))


class Client(_Calls):
    """A client whose calls return their results."""

    _http: httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.Client(**self._options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @override
    def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    response = self._send(call)
                except ServiceError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            return stop.value

    def _send(self, call: Call) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = self._http.request(call.method, call.path, **call.options())
            except httpx.HTTPError as error:
                raise _unreachable(self._options["base_url"], error) from error
            if (wait := _wait(response, attempt, self._retries)) is None:
                return _checked(response)
            time.sleep(wait)
        raise AssertionError


class AsyncClient(_Calls):
    """A client whose calls are awaited."""

    _http: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @override
    async def _run(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    response = await self._send(call)
                except ServiceError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            return stop.value

    async def _send(self, call: Call) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = await self._http.request(call.method, call.path, **call.options())
            except httpx.HTTPError as error:
                raise _unreachable(self._options["base_url"], error) from error
            if (wait := _wait(response, attempt, self._retries)) is None:
                return _checked(response)
            await asyncio.sleep(wait)
        raise AssertionError


def _wait(response: httpx.Response, attempt: int, retries: int) -> float | None:
    """Seconds until the request is sent again; None if it is not."""
    if response.status_code not in RETRIED or attempt == retries or error_of(response).code in FINAL:
        return None
    asked = response.headers.get("retry-after", "")
    least = float(asked) if asked.isdecimal() else 0.0
    growing = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - so that clients do not come together
    return max(least, min(LONGEST_WAIT_S, growing)) if least <= LONGEST_ASKED_S else None


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    raise error_of(response)


def _unreachable(url: str, error: httpx.HTTPError) -> UnreachableError:
    reason = str(error) or type(error).__name__
    return UnreachableError(f"{url} gave no answer: {reason}. Check the address, and whether the service runs.")
