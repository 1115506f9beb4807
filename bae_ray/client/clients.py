"""The clients: one that blocks, and one for asyncio."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Generator, Iterator
from itertools import count
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import EventSource
from typing_extensions import override

from bae_ray.client.effects import EffectCalls, Steered, SteeredToken, event_of
from bae_ray.client.requests import Call, Flow
from bae_ray.client.service_errors import UnreachableError, error_of

T = TypeVar("T")
RETRIED = (429, 503)
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
"""The longest pause that the client chooses itself."""
LONGEST_ASKED_S = 120.0
"""The longest pause that the service may ask for; beyond it, the call fails."""
FINAL = ("encoder_broken",)
"""Codes of a 503 that are not sent again."""


class _Sender(EffectCalls):
    """What both clients have: the settings, and the steps of a call."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout: float = 120, retries: int = 5
    ) -> None:
        """A client of the service at `url`. `key`: the bearer key. `timeout`: seconds to wait for an answer.

        `retries`: how often a request is sent again after 429 or 503 (but `encoder_broken`), with growing pauses, none
        shorter than the service asks for; where it asks for more than two minutes, the call fails at once.
        """
        super().__init__()
        self._url, self._retries = url, retries
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._options: dict[str, Any] = {"base_url": url, "timeout": timeout, "headers": headers}

    def _steps(self, flow: Flow[T]) -> Generator[Call | float, Any, T]:
        """The requests of a flow, to be answered by responses, and in between the seconds to wait."""
        try:
            call = next(flow)
            while True:
                response, attempt = (yield call), 0
                while (wait := _wait(response, attempt, self._retries)) is not None:
                    yield wait
                    response, attempt = (yield call), attempt + 1
                call = flow.send(response) if response.is_success else flow.throw(error_of(response))
        except StopIteration as stop:
            return stop.value

    def _unreachable(self, error: httpx.HTTPError) -> UnreachableError:
        reason = str(error) or type(error).__name__
        return UnreachableError(
            f"{self._url} gave no answer: {reason}. Check the address, and whether the service runs."
        )

    def _cut(self) -> UnreachableError:
        return UnreachableError(f"{self._url} ended its answer before all of it was there. Send the request again.")


class Client(_Sender):
    """A client whose calls return their results."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @override
    def run(self, flow: Flow[T]) -> T:
        steps, answer = self._steps(flow), None
        try:
            while True:
                step = steps.send(answer)
                answer = self._http.request(**step.options()) if isinstance(step, Call) else time.sleep(step)
        except StopIteration as stop:
            return stop.value
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    @override
    def events(self, call: Call) -> Iterator[SteeredToken | Steered]:
        for attempt in count():
            try:
                with self._http.stream(**call.options()) as response:
                    if response.is_success:
                        for event in map(event_of, EventSource(response).iter_sse()):
                            yield event
                            if isinstance(event, Steered):
                                return
                        raise self._cut()
                    response.read()
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            if (wait := _wait(response, attempt, self._retries)) is None:
                raise error_of(response)
            time.sleep(wait)


class AsyncClient(_Sender):
    """A client whose calls are awaited."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @override
    async def run(self, flow: Flow[T]) -> T:
        steps, answer = self._steps(flow), None
        try:
            while True:
                step = steps.send(answer)
                answer = await (self._http.request(**step.options()) if isinstance(step, Call) else asyncio.sleep(step))
        except StopIteration as stop:
            return stop.value
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    @override
    async def events(self, call: Call) -> AsyncIterator[SteeredToken | Steered]:
        for attempt in count():
            try:
                async with self._http.stream(**call.options()) as response:
                    if response.is_success:
                        async for sent in EventSource(response).aiter_sse():
                            yield (event := event_of(sent))
                            if isinstance(event, Steered):
                                return
                        raise self._cut()
                    await response.aread()
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            if (wait := _wait(response, attempt, self._retries)) is None:
                raise error_of(response)
            await asyncio.sleep(wait)


def _wait(response: httpx.Response, attempt: int, retries: int) -> float | None:
    """Seconds until the request is sent again; None if it is not."""
    if response.status_code not in RETRIED or attempt == retries or error_of(response).code in FINAL:
        return None
    asked = response.headers.get("retry-after", "")
    least = float(asked) if asked.isdecimal() else 0.0
    growing = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - so that clients do not come together
    return max(least, min(LONGEST_WAIT_S, growing)) if least <= LONGEST_ASKED_S else None
