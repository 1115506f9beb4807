"""The calls of the service, free of how they are sent: generators that yield requests and are given answers.

So the client that waits and the one that is awaited are the same but for a dozen lines (clients.py).
"""

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
from safetensors.numpy import load, save

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
Encoders = dict[str, dict[str, Any]]
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
    info = yield from _known(known, encoder_id)
    rows = rows_of(x, "x")
    made = yield from _in_parts(info, "encode", {"format": "packed"}, "x", rows.values, -(-info["d_latent"] // 8))
    code = np.concatenate([part["code"] for part in made])
    return given_back(code if packed else np.unpackbits(code, axis=1, count=info["d_latent"]), rows, returns)


def indices(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """The latents that fire, a list of arrays; or the top k features [N, K]."""
    info = yield from _known(known, encoder_id)
    rows = rows_of(x, "x")
    params = {"format": "indices", "top_k": top_k}
    made = yield from _in_parts(info, "encode", params, "x", rows.values, 4 * (top_k or info["d_latent"]))
    if top_k is not None:
        return given_back(np.concatenate([part["indices"] for part in made]), rows, returns)
    return [row for part in made for row in np.split(part["indices"], part["splits"][1:-1])]


def magnitudes(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """Magnitudes [N, G]; or indices [N, K] and magnitudes [N, K] of the top k features."""
    info = yield from _known(known, encoder_id)
    rows = rows_of(x, "x")
    params = {"format": "magnitudes", "top_k": top_k}
    width = 4 * info["n_features"] if top_k is None else 8 * top_k
    made = yield from _in_parts(info, "encode", params, "x", rows.values, width)
    found = given_back(np.concatenate([part["magnitudes"] for part in made]), rows, returns)
    if top_k is None:
        return found
    return given_back(np.concatenate([part["indices"] for part in made]), rows, returns), found


def decode(known: Encoders, encoder_id: str, code: Any, returns: Returns) -> Flow[Any]:
    """Activations [N, D] of codes [N, F], of packed codes [N, ceil(F / 8)], or of real latents [N, F]."""
    info = yield from _known(known, encoder_id)
    rows = rows_of(code, "code")
    values = rows.values
    width, bits = -(-info["d_latent"] // 8), info["d_latent"]
    if values.shape[1] not in (width, bits):
        raise InvalidInputError(f"code has shape {values.shape}; expected [n, {bits}], or packed [n, {width}].")
    name = "latents"
    if values.shape[1] == width != bits or (values.dtype == np.uint8 and bits == width):
        name, values = "code", values.astype(np.uint8)
    elif info["binary"] and np.isin(values, (0, 1)).all():
        name, values = "code", np.packbits(values.astype(bool), axis=1)
    else:
        values = values.astype(np.float32)
    made = yield from _in_parts(info, "decode", {}, name, values, 4 * info["d_in"])
    return given_back(np.concatenate([part["x"] for part in made]), rows, returns)


def compress(known: Encoders, encoder_id: str, x: Any, params: dict[str, Any]) -> Flow[list[bytes]]:
    """Containers, one for each request that it took."""
    info = yield from _known(known, encoder_id)
    made = []
    for part in _split(info, rows_of(x, "x").values, info["d_latent"]):
        path = f"{_path(encoder_id)}/compress"
        response = yield Call("POST", path, params, content=save({"x": part}), accept=SAFETENSORS)
        made.append(response.content)
    return made


def decompress(encoder_id: str, data: bytes | Sequence[bytes], returns: Returns) -> Flow[Any]:
    """The activations [N, D] in containers."""
    made = []
    for container in [data] if isinstance(data, bytes) else data:
        response = yield Call("POST", f"{_path(encoder_id)}/decompress", content=container, accept=SAFETENSORS)
        made.append(load(response.content)["x"])
    x = np.concatenate(made)
    return given_back(x, rows_of(x, "x"), returns)


def feature(encoder_id: str, index: int) -> Flow[Feature]:
    """What the service says of a feature."""
    found = (yield Call("GET", f"{_path(encoder_id)}/features/{int(index)}")).json()
    similar = pd.Series(found["similar_cosines"], index=found["similar_indices"], dtype=float)
    return Feature(found["index"], found["firing_rate"], np.array(found["direction"], np.float32), similar)


def encode_texts(known: Encoders, encoder_id: str, texts: str | Sequence[str], top_k: int) -> Flow[pd.DataFrame]:
    """A row per token."""
    info = yield from _known(known, encoder_id)
    listed = [texts] if isinstance(texts, str) else list(texts)
    step = info["limits"]["max_texts"]
    answers: list[dict[str, Any]] = []
    for start in range(0, len(listed), step):
        body = {"texts": listed[start : start + step]}
        response = yield Call("POST", f"{_path(encoder_id)}/texts/encode", {"top_k": top_k}, json=body)
        answers.extend(response.json()["texts"])
    return token_table(answers)


def _path(encoder_id: str) -> str:
    return f"/v1/encoders/{quote(encoder_id, safe='')}"


def _known(known: Encoders, encoder_id: str) -> Flow[dict[str, Any]]:
    """An encoder's widths and limits, asked for once."""
    if encoder_id not in known:
        info = yield from get_encoder(encoder_id)
        if info["status"] != "ready":
            raise InvalidInputError(
                f"encoder {encoder_id} is broken: {info['reason']}. Restore its files in the registry."
            )
        known[encoder_id] = info
    return known[encoder_id]


def _split(info: dict[str, Any], values: np.ndarray, answer_width: int) -> Iterator[np.ndarray]:
    """Parts within the service's limits; `answer_width`: bytes of the answer for each row."""
    limits = info["limits"]
    body = (limits["max_body_bytes"] - HEADER_BYTES) // max(1, values[:1].nbytes)
    step = max(1, min(limits["max_rows"], body, limits["max_response_bytes"] // max(1, answer_width)))
    for start in range(0, len(values), step):
        yield values[start : start + step]


def _in_parts(
    info: dict[str, Any], verb: str, params: dict[str, Any], name: str, values: np.ndarray, answer_width: int
) -> Flow[list[dict[str, np.ndarray]]]:
    """The arrays of the answers, a part after the other.

    `info` is brought up to date, and all parts are sent again, where another encoder has taken the id meanwhile. Raises
    `InvalidInputError` where that goes on.
    """
    for _ in range(TRIES):
        made, latents = [], set[int]()
        for part in _split(info, values, answer_width):
            path = f"{_path(info['id'])}/{verb}"
            response = yield Call("POST", path, params, content=save({name: part}), accept=SAFETENSORS)
            made.append(load(response.content))
            latents.add(_latents(response.content, info["d_latent"]))
        if latents <= {info["d_latent"]}:
            return made
        info.update((yield from get_encoder(info["id"])))
    raise InvalidInputError(f"encoder {info['id']} is being replaced: its latents change from answer to answer. Wait.")


def _latents(body: bytes, otherwise: int) -> int:
    """The d_latent that the metadata of an answer in safetensors tells; `otherwise` where it tells none."""
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return int(header.get("__metadata__", {}).get("d_latent", otherwise))
