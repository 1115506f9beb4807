"""The calls of the service, free of how they are sent: generators that yield requests and are given answers.

So the client that waits and the one that is awaited are the same but for a dozen lines (clients.py).
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from bae_ray.client.containers import split_container
from bae_ray.client.errors import InvalidRequestError, RequestTooLargeError
from bae_ray.client.results import Feature, Returns, given_back, rows_of, token_table
from bae_ray.errors import InvalidInputError

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
HEADER_BYTES = 1024
"""What a body has beside its array, at most."""

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

    def options(self) -> dict[str, Any]:
        """What httpx is called with."""
        headers = {"accept": self.accept, **({"content-type": SAFETENSORS} if self.content is not None else {})}
        params = {name: value for name, value in self.params.items() if value is not None}
        body = {"json": self.json} if self.json is not None else {"content": self.content}
        return {"headers": headers, "params": params, **body}


Flow = Generator[Call, httpx.Response, T]
Info = dict[str, Any]
"""What the service says of an encoder."""
Part = TypeVar("Part", np.ndarray, list[str], list[bytes])
Encoders = dict[str, Info]
"""What is known of encoders by id: asked for again where an answer shows that another one has taken the id."""


def list_encoders() -> Flow[pd.DataFrame]:
    """A row per encoder."""
    response = yield Call("GET", "/v1/encoders")
    return pd.DataFrame(response.json()["encoders"])


def get_encoder(encoder_id: str) -> Flow[dict[str, Any]]:
    """All that the service says of it."""
    return (yield Call("GET", _path(encoder_id))).json()


def encode(known: Encoders, encoder_id: str, x: Any, packed: bool, returns: Returns) -> Flow[Any]:
    """Codes [N, F] of 0 and 1, or packed."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        width = -(-info["d_latent"] // 8)
        made = yield from _in_parts(info, "encode", {"format": "packed"}, "x", rows.values, width)
        code = np.concatenate([part["code"] for part in made])
        return given_back(code if packed else np.unpackbits(code, axis=1, count=info["d_latent"]), rows, returns)

    return (yield from _up_to_date(known, encoder_id, attempt))


def indices(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """The latents that fire, a list of arrays; or the top k features [N, K]."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        params = {"format": "indices", "top_k": top_k}
        made = yield from _in_parts(info, "encode", params, "x", rows.values, 4 * (top_k or info["d_latent"]))
        if top_k is not None:
            return given_back(np.concatenate([part["indices"] for part in made]), rows, returns)
        return [row for part in made for row in np.split(part["indices"], part["splits"][1:-1])]

    return (yield from _up_to_date(known, encoder_id, attempt))


def magnitudes(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """Magnitudes [N, G]; or indices [N, K] and magnitudes [N, K] of the top k features."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        params = {"format": "magnitudes", "top_k": top_k}
        width = 4 * info["n_features"] if top_k is None else 8 * top_k
        made = yield from _in_parts(info, "encode", params, "x", rows.values, width)
        found = given_back(np.concatenate([part["magnitudes"] for part in made]), rows, returns)
        if top_k is None:
            return found
        return given_back(np.concatenate([part["indices"] for part in made]), rows, returns), found

    return (yield from _up_to_date(known, encoder_id, attempt))


def decode(known: Encoders, encoder_id: str, code: Any, returns: Returns) -> Flow[Any]:
    """Activations [N, D] of codes [N, F], of packed codes [N, ceil(F / 8)], or of real latents [N, F]."""
    rows = rows_of(code, "code")

    def attempt(info: Info) -> Flow[Any]:
        name, values = _coded(rows.values, info)
        made = yield from _in_parts(info, "decode", {}, name, values, 4 * info["d_in"])
        return given_back(np.concatenate([part["x"] for part in made]), rows, returns)

    return (yield from _up_to_date(known, encoder_id, attempt))


def compress(known: Encoders, encoder_id: str, x: Any, params: dict[str, Any]) -> Flow[list[bytes]]:
    """Containers, one for each request that it took."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[list[bytes]]:
        path = f"{_path(encoder_id)}/compress"
        responses = yield from _answers(
            _split(info, rows.values, info["d_latent"]),
            lambda part: Call("POST", path, params, content=save({"x": part}), accept=SAFETENSORS),
        )
        return [response.content for response in responses]

    return (yield from _up_to_date(known, encoder_id, attempt))


def decompress(known: Encoders, encoder_id: str, data: bytes | Sequence[bytes], returns: Returns) -> Flow[Any]:
    """The activations [N, D] in containers; what is more than the service takes goes in parts of whole blocks."""
    containers = [data] if isinstance(data, bytes) else list(data)

    def attempt(info: Info) -> Flow[Any]:
        limits = info["limits"]
        most_rows = min(limits["max_rows"], limits["max_response_bytes"] // (4 * info["d_in"]))
        parts = [part for one in containers for part in split_container(one, most_rows, limits["max_body_bytes"])]
        path = f"{_path(encoder_id)}/decompress"
        responses = yield from _answers(
            [[part] for part in parts], lambda part: Call("POST", path, content=part[0], accept=SAFETENSORS)
        )
        x = np.concatenate([load(response.content)["x"] for response in responses])
        return given_back(x, rows_of(x, "x"), returns)

    return (yield from _up_to_date(known, encoder_id, attempt))


def feature(encoder_id: str, index: int) -> Flow[Feature]:
    """What the service says of a feature."""
    found = (yield Call("GET", f"{_path(encoder_id)}/features/{int(index)}")).json()
    similar = pd.Series(found["similar_cosines"], index=found["similar_indices"], dtype=float)
    return Feature(found["index"], found["firing_rate"], np.array(found["direction"], np.float32), similar)


def encode_texts(known: Encoders, encoder_id: str, texts: str | Sequence[str], top_k: int) -> Flow[pd.DataFrame]:
    """A row per token."""
    listed = [texts] if isinstance(texts, str) else list(texts)

    def attempt(info: Info) -> Flow[pd.DataFrame]:
        path = f"{_path(encoder_id)}/texts/encode"
        responses = yield from _answers(
            list(_groups(info["limits"], listed)),
            lambda group: Call("POST", path, {"top_k": top_k}, json={"texts": group}),
        )
        return token_table([answer for response in responses for answer in response.json()["texts"]])

    return (yield from _up_to_date(known, encoder_id, attempt))


def _path(encoder_id: str) -> str:
    return f"/v1/encoders/{quote(encoder_id, safe='')}"


class _ReplacedError(Exception):
    """Answers are of another encoder than the one that is known by the id."""


def _up_to_date(known: Encoders, encoder_id: str, attempt: Callable[[Info], Flow[T]]) -> Flow[T]:
    """What `attempt` makes of an encoder's widths and limits, which are asked for once.

    It is made again by what they are now where another encoder has taken the id; and once where it was refused and they
    have changed. Raises `InvalidInputError` for an encoder that is broken, or never stays the same.
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
    raise InvalidInputError(f"encoder {encoder_id} is being replaced: its latents change from answer to answer. Wait.")


def _ready(encoder_id: str) -> Flow[Info]:
    info = yield from get_encoder(encoder_id)
    if info["status"] != "ready":
        raise InvalidInputError(f"encoder {encoder_id} is broken: {info['reason']}. Restore its files in the registry.")
    return info


def _coded(values: np.ndarray, info: Info) -> tuple[str, np.ndarray]:
    """What to decode, by the name that the service has for it."""
    width, bits = -(-info["d_latent"] // 8), info["d_latent"]
    if values.shape[1] not in (width, bits):
        raise InvalidInputError(f"code has shape {values.shape}; expected [n, {bits}], or packed [n, {width}].")
    if values.shape[1] == width != bits or (values.dtype == np.uint8 and bits == width):
        return "code", values.astype(np.uint8)
    if info["binary"] and np.isin(values, (0, 1)).all():
        return "code", np.packbits(values.astype(bool), axis=1)
    return "latents", values.astype(np.float32)


def _split(info: Info, values: np.ndarray, answer_width: int) -> list[np.ndarray]:
    """Parts within the service's limits; `answer_width`: bytes of the answer for each row."""
    limits = info["limits"]
    body = (limits["max_body_bytes"] - HEADER_BYTES) // max(1, values[:1].nbytes)
    step = max(1, min(limits["max_rows"], body, limits["max_response_bytes"] // max(1, answer_width)))
    return [values[start : start + step] for start in range(0, len(values), step)]


def _groups(limits: dict[str, Any], texts: list[str]) -> Iterator[list[str]]:
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


def _answers(parts: Sequence[Part], call: Callable[[Part], Call]) -> Flow[list[httpx.Response]]:
    """The answers to parts, in their order; a part whose answer would be too large is sent in halves."""
    made: list[httpx.Response] = []
    waiting = [*reversed(parts)]
    while waiting:
        part = waiting.pop()
        try:
            made.append((yield call(part)))
        except RequestTooLargeError as error:
            if error.code != "answer_too_large" or len(part) < 2:
                raise
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
    return made


def _in_parts(
    info: Info, verb: str, params: dict[str, Any], name: str, values: np.ndarray, answer_width: int
) -> Flow[list[dict[str, np.ndarray]]]:
    """The arrays of the answers. Raises `_ReplacedError` where one of them is of another encoder."""
    path = f"{_path(info['id'])}/{verb}"
    responses = yield from _answers(
        _split(info, values, answer_width),
        lambda part: Call("POST", path, params, content=save({name: part}), accept=SAFETENSORS),
    )
    if any(_latents(response.content, info["d_latent"]) != info["d_latent"] for response in responses):
        raise _ReplacedError
    return [load(response.content) for response in responses]


def _latents(body: bytes, otherwise: int) -> int:
    """The d_latent that the metadata of an answer in safetensors tells; `otherwise` where it tells none."""
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return int(header.get("__metadata__", {}).get("d_latent", otherwise))
