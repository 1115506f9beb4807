"""Requests to the service: split into parts within its limits, and repeated if an encoder was replaced meanwhile.

Generators that yield requests and receive answers, or errors that they may handle.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from safetensors.numpy import save

from bae_ray.client.service_errors import InvalidRequestError, RequestTooLargeError
from bae_ray.errors import InvalidInputError

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
EVENTS = "text/event-stream"
HEADER_BYTES = 1024
"""Bytes of a body beside its array, at most."""

VERSION_HEADER = "x-encoder-version"
TRIES = 3

T = TypeVar("T")


class Call(NamedTuple):
    """A request to send."""

    method: str
    path: str
    params: dict[str, Any] = {}  # noqa: RUF012 - never changed
    json: Any = None
    content: bytes | None = None
    accept: str = JSON
    content_type: str = SAFETENSORS
    """The type of the content."""

    def options(self) -> dict[str, Any]:
        """Arguments for httpx."""
        headers = {"accept": self.accept, **({"content-type": self.content_type} if self.content is not None else {})}
        params = {name: value for name, value in self.params.items() if value is not None}
        body = {"json": self.json} if self.json is not None else {"content": self.content}
        return {"method": self.method, "url": self.path, "headers": headers, "params": params, **body}


Flow = Generator[Call, httpx.Response, T]
Info = dict[str, Any]
"""The service's description of an encoder."""
Part = TypeVar("Part", np.ndarray, list[str], list[bytes])
Encoders = dict[str, Info]
"""Encoders that are known, by id. They are asked for again if an answer shows that the id has another encoder now."""


def path_of(encoder_id: str) -> str:
    """The address of an encoder."""
    return f"/v1/encoders/{quote(encoder_id, safe='')}"


def get_encoder(encoder_id: str) -> Flow[dict[str, Any]]:
    """The service's full description of an encoder."""
    return (yield Call("GET", path_of(encoder_id))).json()


class _ReplacedError(Exception):
    """The answers come from another encoder than the known one."""


def up_to_date(known: Encoders, encoder_id: str, attempt: Callable[[Info], Flow[T]]) -> Flow[T]:
    """The result of `attempt` with the encoder's widths and limits, which are asked for once.

    The attempt is repeated if another encoder has taken the id, and once if it was refused and the limits have changed.

    Raises `InvalidInputError` for an encoder that is broken, or that keeps changing.
    """
    if encoder_id not in known:
        known[encoder_id] = yield from _ready(encoder_id)
    refused = False
    for _ in range(TRIES):
        try:
            return (yield from attempt(known[encoder_id]))
        except _ReplacedError:
            known[encoder_id] = yield from _ready(encoder_id)
        except (RequestTooLargeError, InvalidRequestError, InvalidInputError):
            before, known[encoder_id] = known[encoder_id], (yield from _ready(encoder_id))
            if refused or known[encoder_id] == before:
                raise
            refused = True
    raise InvalidInputError(
        f"encoder {encoder_id} is being replaced: its files changed between two answers. Try again later."
    )


def _ready(encoder_id: str) -> Flow[Info]:
    info = yield from get_encoder(encoder_id)
    if info["status"] != "ready":
        raise InvalidInputError(f"encoder {encoder_id} is broken: {info['reason']}. Restore its files in the registry.")
    return info


def groups(limits: dict[str, Any], texts: list[str]) -> Iterator[list[str]]:
    """Texts, as many as the service takes at once in number and in bytes."""
    group, size = [], HEADER_BYTES
    for text in texts:
        more = len(json.dumps(text)) + 1
        if group and (len(group) == limits["max_texts"] or size + more > limits["max_body_bytes"]):
            yield group
            group, size = [], HEADER_BYTES
        group.append(text)
        size += more
    if group:
        yield group


def answers(info: Info, parts: Sequence[Part], call: Callable[[Part], Call]) -> Flow[list[httpx.Response]]:
    """The answers to parts, in order. A part whose answer would be too large is sent in halves.

    Raises `_ReplacedError` if one of them is of another encoder.
    """
    made: list[httpx.Response] = []
    waiting = [*reversed(parts)]
    while waiting:
        part = waiting.pop()
        try:
            response = yield call(part)
        except RequestTooLargeError as error:
            if error.code != "answer_too_large" or len(part) < 2:
                raise
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
        else:
            if response.headers.get(VERSION_HEADER) != info["version"]:
                raise _ReplacedError
            made.append(response)
    return made


def in_parts(
    info: Info, verb: str, params: dict[str, Any], name: str, values: np.ndarray, answer_width: int
) -> Flow[list[bytes]]:
    """The bodies of the answers to rows, sent in parts; `answer_width`: bytes of the answer for each row."""
    limits, path = info["limits"], f"{path_of(info['id'])}/{verb}"
    body = (limits["max_body_bytes"] - HEADER_BYTES) // max(1, values[:1].nbytes)
    step = max(1, min(limits["max_rows"], body, limits["max_response_bytes"] // max(1, answer_width)))
    made = yield from answers(
        info,
        [values[start : start + step] for start in range(0, len(values), step)],
        lambda part: Call("POST", path, params, content=save({name: part}), accept=SAFETENSORS),
    )
    return [response.content for response in made]
