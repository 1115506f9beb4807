"""The calls of the service, independent of how they are sent.

They are generators that yield requests and receive answers. So both clients share them (clients.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from bae_ray.client.array_types import Feature, Returns, given_back, listed_back, rows_of, token_table
from bae_ray.client.requests import (
    SAFETENSORS,
    Call,
    Encoders,
    Flow,
    Info,
    answers,
    groups,
    in_parts,
    path_of,
    split,
    up_to_date,
)
from bae_ray.client.split_containers import split_container, type_of
from bae_ray.errors import InvalidInputError

Bytes = bytes | bytearray | memoryview


def list_encoders() -> Flow[pd.DataFrame]:
    """A row per encoder."""
    listed: list[Info] = []
    after: str | None = None
    while True:
        page = (yield Call("GET", "/v1/encoders", {"after": after})).json()
        listed += page["encoders"]
        if (after := page.get("next")) is None:
            return pd.DataFrame(listed)


def encode(known: Encoders, encoder_id: str, x: Any, packed: bool, returns: Returns) -> Flow[Any]:
    """Codes [N, F] of 0 and 1, or packed."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        width = -(-info["d_latent"] // 8)
        made = yield from in_parts(info, "encode", {"format": "packed"}, "x", rows.values, width)
        code = np.concatenate([part["code"] for part in made])
        return given_back(code if packed else np.unpackbits(code, axis=1, count=info["d_latent"]), rows, returns)

    return (yield from up_to_date(known, encoder_id, attempt))


def indices(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """The latents that fire, an array for each row; or the top k features [N, K]."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        params = {"format": "indices", "top_k": top_k}
        made = yield from in_parts(info, "encode", params, "x", rows.values, 4 * (top_k or info["d_latent"]))
        if top_k is not None:
            return given_back(np.concatenate([part["indices"] for part in made]), rows, returns)
        listed = [row for part in made for row in np.split(part["indices"], part["splits"][1:-1])]
        return listed_back(listed, rows, returns)

    return (yield from up_to_date(known, encoder_id, attempt))


def magnitudes(known: Encoders, encoder_id: str, x: Any, top_k: int | None, returns: Returns) -> Flow[Any]:
    """Magnitudes [N, G]; or indices [N, K] and magnitudes [N, K] of the top k features."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[Any]:
        params = {"format": "magnitudes", "top_k": top_k}
        width = 4 * info["n_features"] if top_k is None else 8 * top_k
        made = yield from in_parts(info, "encode", params, "x", rows.values, width)
        found = given_back(np.concatenate([part["magnitudes"] for part in made]), rows, returns)
        if top_k is None:
            return found
        return given_back(np.concatenate([part["indices"] for part in made]), rows, returns), found

    return (yield from up_to_date(known, encoder_id, attempt))


def decode(known: Encoders, encoder_id: str, code: Any, returns: Returns) -> Flow[Any]:
    """Activations [N, D] of codes [N, F], of packed codes [N, ceil(F / 8)], or of real latents [N, F]."""
    rows = rows_of(code, "code")

    def attempt(info: Info) -> Flow[Any]:
        name, values = _coded(rows.values, info)
        made = yield from in_parts(info, "decode", {}, name, values, 4 * info["d_in"])
        return given_back(np.concatenate([part["x"] for part in made]), rows, returns)

    return (yield from up_to_date(known, encoder_id, attempt))


def compress(known: Encoders, encoder_id: str, x: Any, params: dict[str, Any]) -> Flow[list[bytes]]:
    """Containers, one for each request that it took."""
    rows = rows_of(x, "x")

    def attempt(info: Info) -> Flow[list[bytes]]:
        path = f"{path_of(encoder_id)}/compress"
        responses = yield from answers(
            info,
            split(info, rows.values, info["d_latent"]),
            lambda part: Call("POST", path, params, content=save({"x": part}), accept=SAFETENSORS),
        )
        return [response.content for response in responses]

    return (yield from up_to_date(known, encoder_id, attempt))


def decompress(known: Encoders, encoder_id: str, data: Bytes | Sequence[Bytes], returns: Returns) -> Flow[Any]:
    """The activations [N, D] in containers; what is more than the service takes goes in parts of whole blocks."""
    containers = _containers(data)

    def attempt(info: Info) -> Flow[Any]:
        limits = info["limits"]
        most_rows = min(limits["max_rows"], limits["max_response_bytes"] // (4 * info["d_in"]))
        parts = [part for one in containers for part in split_container(one, most_rows, limits["max_body_bytes"])]
        path = f"{path_of(encoder_id)}/decompress"
        responses = yield from answers(
            info,
            [[part] for part in parts],
            lambda part: Call("POST", path, content=part[0], accept=SAFETENSORS, content_type=type_of(part[0])),
        )
        x = np.concatenate([load(response.content)["x"] for response in responses])
        return given_back(x, rows_of(x, "x"), returns)

    return (yield from up_to_date(known, encoder_id, attempt))


def feature(encoder_id: str, index: int) -> Flow[Feature]:
    """What the service says of a feature."""
    found = (yield Call("GET", f"{path_of(encoder_id)}/features/{int(index)}")).json()
    similar = pd.Series(found["similar_cosines"], index=found["similar_indices"], dtype=float)
    return Feature(
        found["index"], found["firing_rate"], np.array(found["direction"], np.float32), similar, found["card"]
    )


def encode_texts(known: Encoders, encoder_id: str, texts: str | Sequence[str], top_k: int) -> Flow[pd.DataFrame]:
    """A row per token."""
    listed = [texts] if isinstance(texts, str) else list(texts)

    def attempt(info: Info) -> Flow[pd.DataFrame]:
        path = f"{path_of(encoder_id)}/texts/encode"
        responses = yield from answers(
            info,
            list(groups(info["limits"], listed)),
            lambda group: Call("POST", path, {"top_k": top_k}, json={"texts": group}),
        )
        return token_table([text for response in responses for text in response.json()["texts"]])

    return (yield from up_to_date(known, encoder_id, attempt))


def _containers(data: Bytes | Sequence[Bytes]) -> list[bytes]:
    """A list of containers. Raises `InvalidInputError` if there are none."""
    listed = [data] if isinstance(data, Bytes) else list(data)
    if not listed or not all(isinstance(one, Bytes) for one in listed):
        raise InvalidInputError("data holds no containers: expected bytes, or a list of at least one of them.")
    return [bytes(one) for one in listed]


def _coded(values: np.ndarray, info: Info) -> tuple[str, np.ndarray]:
    """The array to decode, with the name that the service has for it."""
    width, bits = -(-info["d_latent"] // 8), info["d_latent"]
    if values.shape[1] not in (width, bits):
        raise InvalidInputError(f"code has shape {values.shape}; expected [n, {bits}], or packed [n, {width}].")
    if values.shape[1] == width != bits or (values.dtype == np.uint8 and bits == width):
        return "code", values.astype(np.uint8)
    if info["binary"] and np.isin(values, (0, 1)).all():
        return "code", np.packbits(values.astype(bool), axis=1)
    return "latents", values.astype(np.float32)
