"""The calls of the service, independent of how they are sent.

They are generators that yield requests and receive answers, so that both clients share them (clients.py).
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from safetensors.numpy import load

from bae_ray.client.array_types import Feature, Returns, given_back, listed_back, rows_of, token_table
from bae_ray.client.requests import (
    SAFETENSORS,
    Call,
    Encoders,
    Flow,
    Info,
    answers,
    get_encoder,
    groups,
    in_parts,
    path_of,
    up_to_date,
)
from bae_ray.client.split_containers import split_container, type_of
from bae_ray.errors import InvalidInputError

P = ParamSpec("P")
C = TypeVar("C", bound="Calls")
Bytes = bytes | bytearray | memoryview


def sent(flow: Callable[Concatenate[C, P], Any]) -> Callable[Concatenate[C, P], Any]:
    """The generator as a method that sends its requests."""

    @functools.wraps(flow)
    def method(calls: C, *arguments: P.args, **options: P.kwargs) -> Any:
        return calls.run(flow(calls, *arguments, **options))

    return method


class Calls(ABC):
    """The calls. Those of `AsyncClient` must be awaited.

    `x` and `code` may be numpy arrays, torch tensors, data frames or lists; results are of the same kind, or of the one
    that `returns` names. Inputs larger than the service's limits are sent in parts. Every call may raise a
    `ServiceError` (`bae_ray.client.service_errors`).
    """

    def __init__(self) -> None:
        self._known: Encoders = {}

    @abstractmethod
    def run(self, flow: Flow[Any]) -> Any:
        """Send a flow's requests and return its result; a request that fails raises inside the flow."""

    @sent
    def encoders(self) -> Any:
        """A data frame with a row per encoder of the registry."""
        listed: list[Info] = []
        after: str | None = None
        while True:
            page = (yield Call("GET", "/v1/encoders", {"after": after})).json()
            listed += page["encoders"]
            if (after := page.get("next")) is None:
                return pd.DataFrame(listed)

    @sent
    def encoder(self, encoder_id: str) -> Any:
        """The service's description of an encoder, with its limits: a dict."""
        return (yield from get_encoder(encoder_id))

    @sent
    def encode(self, encoder_id: str, x: Any, *, packed: bool = False, returns: Returns = "same") -> Any:
        """Codes [n, d_latent] of activations [n, d_in], uint8 of 0 and 1; `packed`: [n, ceil(d_latent / 8)]."""
        rows = rows_of(x, "x")

        def attempt(info: Info) -> Flow[Any]:
            width = -(-info["d_latent"] // 8)
            made = yield from in_parts(info, "encode", {"format": "packed"}, "x", rows.values, width)
            code = _joined(made, "code")
            return given_back(code if packed else np.unpackbits(code, axis=1, count=info["d_latent"]), rows, returns)

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def indices(self, encoder_id: str, x: Any, *, top_k: int | None = None, returns: Returns = "same") -> Any:
        """The latents that fire, an array for each row, in a list or series; with `top_k` [n, top_k], largest first."""
        rows = rows_of(x, "x")

        def attempt(info: Info) -> Flow[Any]:
            params = {"format": "indices", "top_k": top_k}
            made = yield from in_parts(info, "encode", params, "x", rows.values, 4 * (top_k or info["d_latent"]))
            if top_k is not None:
                return given_back(_joined(made, "indices"), rows, returns)
            arrays = map(load, made)
            listed = [row for part in arrays for row in np.split(part["indices"], part["splits"][1:-1])]
            return listed_back(listed, rows, returns)

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def magnitudes(self, encoder_id: str, x: Any, *, top_k: int | None = None, returns: Returns = "same") -> Any:
        """Magnitudes (burstiness) [n, n_features]; with `top_k` the pair indices, magnitudes, each [n, top_k]."""
        rows = rows_of(x, "x")

        def attempt(info: Info) -> Flow[Any]:
            params = {"format": "magnitudes", "top_k": top_k}
            width = 4 * info["n_features"] if top_k is None else 8 * top_k
            made = yield from in_parts(info, "encode", params, "x", rows.values, width)
            found = given_back(_joined(made, "magnitudes"), rows, returns)
            return found if top_k is None else (given_back(_joined(made, "indices"), rows, returns), found)

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def decode(self, encoder_id: str, code: Any, *, returns: Returns = "same") -> Any:
        """Activations [n, d] of codes [n, d_latent], packed codes, or latents of an encoder that is not binary."""
        rows = rows_of(code, "code")

        def attempt(info: Info) -> Flow[Any]:
            name, values = _coded(rows.values, info)
            made = yield from in_parts(info, "decode", {}, name, values, 4 * info["d_in"])
            return given_back(_joined(made, "x"), rows, returns)

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def compress(
        self,
        encoder_id: str,
        x: Any,
        *,
        scheme: str = "entropy",
        threshold: float | None = None,
        table: Literal["reference", "embedded"] | None = None,
    ) -> Any:
        """Activations as containers of the codec (bytes), one per request sent.

        `scheme`: `entropy`, `tree` (by the encoder's tree), `auto` (the smaller of these) or `indices`. `table`:
        `reference` (the default) refers to the encoder's firing rates or tree; `embedded` containers can be read
        without the encoder.
        """
        rows, params = rows_of(x, "x"), {"scheme": scheme, "threshold": threshold, "table": table}

        def attempt(info: Info) -> Flow[list[bytes]]:
            return in_parts(info, "compress", params, "x", rows.values, info["d_latent"])

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def decompress(self, encoder_id: str, data: Bytes | Sequence[Bytes], *, returns: Returns = "numpy") -> Any:
        """The activations [n, d] in containers; large containers are sent in parts of whole blocks."""
        containers = _containers(data)

        def attempt(info: Info) -> Flow[Any]:
            limits, path = info["limits"], f"{path_of(encoder_id)}/decompress"
            most_rows = min(limits["max_rows"], limits["max_response_bytes"] // (4 * info["d_in"]))
            parts = [[part] for one in containers for part in split_container(one, most_rows, limits["max_body_bytes"])]
            made = yield from answers(
                info,
                parts,
                lambda part: Call("POST", path, content=part[0], accept=SAFETENSORS, content_type=type_of(part[0])),
            )
            x = _joined([response.content for response in made], "x")
            return given_back(x, rows_of(x, "x"), returns)

        return (yield from up_to_date(self._known, encoder_id, attempt))

    @sent
    def feature(self, encoder_id: str, index: int) -> Any:
        """A feature of the encoder: a `Feature`."""
        found = (yield Call("GET", f"{path_of(encoder_id)}/features/{int(index)}")).json()
        similar = pd.Series(found["similar_cosines"], index=found["similar_indices"], dtype=float)
        direction = np.array(found["direction"], np.float32)
        return Feature(found["index"], found["firing_rate"], direction, similar, found["card"])

    @sent
    def encode_texts(self, encoder_id: str, texts: str | Sequence[str], *, top_k: int = 8) -> Any:
        """A data frame with a row per token: text, token_id, token, start, end, features, magnitudes."""
        listed = [texts] if isinstance(texts, str) else list(texts)

        def attempt(info: Info) -> Flow[pd.DataFrame]:
            path = f"{path_of(encoder_id)}/texts/encode"
            parts = list(groups(info["limits"], listed))
            made = yield from answers(
                info, parts, lambda group: Call("POST", path, {"top_k": top_k}, json={"texts": group})
            )
            return token_table([text for response in made for text in response.json()["texts"]])

        return (yield from up_to_date(self._known, encoder_id, attempt))


def _joined(bodies: Sequence[bytes], name: str) -> np.ndarray:
    """The rows of an array in the bodies of answers."""
    return np.concatenate([load(body)[name] for body in bodies])


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
