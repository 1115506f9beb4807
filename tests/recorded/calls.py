"""The requests that the service's answers to are recorded: every route in every way, and what is refused."""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from tests.recorded import made

JSON, BINARY, BYTES = "application/json", "application/x-safetensors", "application/octet-stream"
KEY, NARROW, RATIONED = "k" * 32, "n" * 32, "r" * 32
X = made.numbers(3, made.D, seed=7).numpy() * 4
CODE = (made.numbers(3, made.F, seed=8) > 0.5).numpy().astype(np.uint8)
LATENTS = made.numbers(2, made.F, seed=9).abs().numpy()


ENCODE, GOOD = "/v1/encoders/bae/encode", {"x": X.tolist()}


class Ask(NamedTuple):
    """A request to send."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def calls(container: bytes) -> Iterator[Ask]:
    """Every route in every way that there is."""
    at = "/v1/encoders"
    for path in (at, f"{at}?limit=2", f"{at}?limit=2&after=bae", f"{at}/bae", f"{at}/relu", f"{at}/two-bits",
                 f"{at}/no-prior", f"{at}/run", f"{at}/cut", f"{at}/bae/features/3", f"{at}/relu/features/19",
                 f"{at}/two-bits/features/9", f"{at}/bae/features/3?arrays=base64", "/livez", "/readyz"):  # fmt: skip
        yield Ask(path, "GET", path)
        yield Ask(f"HEAD {path}", "HEAD", path)
    yield Ask("feature in safetensors", "GET", f"{at}/bae/features/3", headers={"accept": BINARY})
    for way in ("nested", "base64", "safetensors"):
        for query in ("", "?format=packed", "?format=indices", "?format=magnitudes"):
            yield _sent(f"{at}/bae/encode{query}", {"x": X}, way)
        for query in ("?format=magnitudes", "?format=magnitudes&top_k=3", "?format=indices&top_k=3"):
            yield _sent(f"{at}/relu/encode{query}", {"x": X}, way)
        packed = np.packbits(CODE, axis=1)
        yield _sent(f"{at}/bae/decode", {"code": packed}, way)
        yield _sent(f"{at}/two-bits/decode", {"code": packed}, way)
        yield _sent(f"{at}/relu/decode", {"latents": LATENTS}, way)
    rows = [row.nonzero()[0].tolist() for row in CODE]
    yield _json(f"{at}/bae/decode", {"indices": rows}, "decode of indices")
    splits = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    flat = {"indices": np.concatenate(rows).astype(np.int32), "splits": splits}
    yield _sent(f"{at}/no-prior/decode", flat, "safetensors")
    for scheme in ("entropy", "indices", "indices&threshold=-0.5"):
        for table in ("reference", "embedded"):
            for way in ("nested", "safetensors"):
                yield _sent(f"{at}/bae/compress?scheme={scheme}&table={table}", {"x": X}, way)
    data = base64.b64encode(container).decode()
    yield _json(f"{at}/bae/decompress", {"data": data})
    yield _json(f"{at}/bae/decompress?format=packed&arrays=base64", {"data": data})
    yield Ask("decompress of bytes", "POST", f"{at}/bae/decompress", container, {"content-type": BYTES})
    yield _json(f"{at}/run/texts/encode?top_k=2", {"texts": ["w1 w2 nothing", "w30"]})
    yield _json(f"{at}/run/texts/encode", {"texts": ["w3 w4"]}, "texts in safetensors", accept=BINARY)
    for dtype in ("float16", "float64", "int32"):
        given = X.astype(dtype)
        yield _sent(f"{at}/bae/encode", {"x": given}, "safetensors")._replace(name=f"encode of {dtype}")
    for method, path in (("OPTIONS", at), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/metrics")):
        yield Ask(f"{method} {path}", method, path)


def refused(container: bytes) -> Iterator[Ask]:
    """Requests as they should not be."""
    yield from _without_leave()
    yield from _addresses()
    yield from _json_bodies()
    yield from _media()
    yield from _binary_bodies(container)
    yield from _decodes_and_texts()


def _without_leave() -> Iterator[Ask]:
    yield _json(ENCODE, GOOD, "no key", authorization="")
    yield _json(ENCODE, GOOD, "no scheme", authorization=KEY)
    yield _json(ENCODE, GOOD, "wrong key", **bearer("w" * 32))
    yield _json(ENCODE, GOOD, "key of others", **bearer(NARROW))
    yield Ask("list of a narrow key", "GET", "/v1/encoders", headers=bearer(NARROW))
    yield Ask("rationed key", "GET", "/v1/encoders?limit=1", headers=bearer(RATIONED))
    yield Ask("rationed key again", "GET", "/v1/encoders?limit=1", headers=bearer(RATIONED))


def _addresses() -> Iterator[Ask]:
    """Addresses, methods and parameters that there are not."""
    for path in ("/", "/v1", "/v1/nothing", "/v1/encoders/", "/v1/encoders/nobody", "/v1/encoders/%2e%2e",
                 "/v1/encoders/bae%00", f"/v1/encoders/{'a' * 300}", "/v1/encoders/bae/features/20",
                 "/v1/encoders/bae/features/x", "/v1/encoders/bae/features/-1", "/v1/encoders/cut/features/0", ENCODE,
                 "/v1/encoders?limit=0", "/v1/encoders?limit=1001", "/v1/encoders?a=1",
                 "/v1/encoders/bae?limit=1"):  # fmt: skip
        yield Ask(f"GET {path}", "GET", path)
    for method, path in (("DELETE", "/v1/encoders"), ("PUT", ENCODE), ("POST", "/v1/encoders"), ("HEAD", ENCODE)):
        yield Ask(f"{method} {path}", method, path)
    for path in ("nobody", "cut", "relu"):
        yield _json(f"/v1/encoders/{path}/compress", GOOD)
    for query in ("formt=packed", "format=x", "format=packed&format=indices", "top_k=0", "top_k=x", "top_k=21", "%",
                  "format=magnitudes&top_k=21", "arrays=x", "format=packed&top_k=3"):  # fmt: skip
        yield _json(f"{ENCODE}?{query}", GOOD)
    for query in ("scheme=x", "threshold=-0.5", "scheme=indices&threshold=1", "scheme=indices&threshold=nan",
                  "table=x"):  # fmt: skip
        yield _json(f"/v1/encoders/bae/compress?{query}", GOOD)
    yield _json("/v1/encoders/no-prior/encode?format=magnitudes", GOOD)
    yield _json("/v1/encoders/no-prior/compress?scheme=indices&threshold=-0.5", GOOD)
    yield _json("/v1/encoders/no-prior/compress", GOOD)


def _json_bodies() -> Iterator[Ask]:
    bodies: dict[str, bytes] = {
        "empty": b"", "cut off": b"{", "null": b"null", "a text": b'"x"', "not UTF-8": b"\xff\xfe", "no x": b"{}",
        "twice": b'{"x": [[1]], "x": [[1]]}', "deep": b'{"x":' + b"[" * 3000, "of one level": b'{"x": [1, 2]}',
        "ragged": b'{"x": [[1, 2], [1]]}', "texts": b'{"x": [["a"]]}', "nothing in it": b'{"x": []}',
        "more than x": json.dumps({**GOOD, "y": 1}).encode(), "NaN": b'{"x": [[NaN, 1, 1, 1, 1, 1, 1, 1]]}',
        "large": b'{"x": [[1e999, 1, 1, 1, 1, 1, 1, 1]]}', "null in it": b'{"x": [[null, 1, 1, 1, 1, 1, 1, 1]]}',
        "wrong width": b'{"x": [[1, 2, 3]]}', "too many rows": json.dumps({"x": [[1] * made.D] * 65}).encode(),
        "base64 that is none": b'{"x": {"data": "!", "dtype": "float32", "shape": [1, 8]}}',
        "base64 of another shape": b'{"x": {"data": "AAAA", "dtype": "float32", "shape": [1, 8]}}',
        "unknown dtype": b'{"x": {"data": "", "dtype": "object", "shape": [0, 8]}}',
        "too large": b" " * ((1 << 16) + 1),
    }  # fmt: skip
    for name, body in bodies.items():
        yield Ask(f"body {name}", "POST", ENCODE, body, {"content-type": JSON})


def _media() -> Iterator[Ask]:
    for media in ("text/plain", "", "application/json; charset=utf-16", BYTES):
        yield Ask(f"media type '{media}'", "POST", ENCODE, json.dumps(GOOD).encode(), {"content-type": media})
    yield _json(ENCODE, GOOD, "coded body", **{"content-encoding": "gzip"})
    yield _json(ENCODE, GOOD, "identity", **{"content-encoding": "identity"})
    for accept in ("text/html", "image/png", "application/json;q=0", "*/*", ";;q=,"):
        yield _json(ENCODE, GOOD, f"accept {accept}", accept=accept)
    yield Ask("list as an image", "GET", "/v1/encoders", headers={"accept": "image/png"})
    yield Ask("feature as a page", "GET", "/v1/encoders/bae/features/3", headers={"accept": "text/html"})


def _binary_bodies(container: bytes) -> Iterator[Ask]:
    tensors: dict[str, bytes] = {
        "of noise": b"\x00" * 20, "of another name": save({"y": X}), "of integers": save({"x": CODE[:, : made.D]}),
        "of two": save({"x": X, "y": X}), "cut off": save({"x": X})[:-4], "wrong width": save({"x": X[:, :3]}),
        "not finite": save({"x": np.full((1, made.D), np.inf, np.float32)}), "of no rows": save({"x": X[:0]}),
        "too many rows": save({"x": np.zeros((65, made.D), np.float32)}),
    }  # fmt: skip
    for name, body in tensors.items():
        yield Ask(f"safetensors {name}", "POST", ENCODE, body, {"content-type": BINARY})
    damaged = bytearray(container)
    damaged[len(damaged) // 2] ^= 1
    for name, body in {"damaged": bytes(damaged), "cut off": container[:-3], "noise": b"x" * 50}.items():
        yield Ask(f"container {name}", "POST", "/v1/encoders/bae/decompress", body, {"content-type": BYTES})
    yield Ask("container of others", "POST", "/v1/encoders/two-bits/decompress", container, {"content-type": BYTES})
    yield _json("/v1/encoders/relu/decompress", {"data": ""}, "container of real latents")


def _decodes_and_texts() -> Iterator[Ask]:
    decodes: dict[str, Any] = {
        "nothing": {}, "two kinds": {"code": [[0, 0, 0]], "indices": [[0]]}, "an index too large": {"indices": [[20]]},
        "an index twice": {"indices": [[1, 1]]}, "indices that fall": {"indices": [[2, 1]]}, "a width": {"code": [[0]]},
        "bits beyond": {"code": [[0, 0, 255]]}, "a byte too large": {"code": [[0, 0, 256]]},
        "latents": {"latents": LATENTS.tolist()},
    }  # fmt: skip
    for name, body in decodes.items():
        yield _json("/v1/encoders/bae/decode", body, f"decode of {name}")
    yield _json("/v1/encoders/relu/decode", {"code": [[0, 0, 0]]}, "decode of a code by real latents")
    texts: dict[str, Any] = {
        "too many": {"texts": ["w1"] * 5}, "too long": {"texts": ["w1 " * 33]}, "none": {"texts": []},
        "no texts": {"texts": [1]}, "another field": {"text": "w1"}, "an empty text": {"texts": [""]},
    }  # fmt: skip
    for name, body in texts.items():
        yield _json("/v1/encoders/run/texts/encode", body, f"texts: {name}")
    yield _json("/v1/encoders/run/texts/encode?top_k=21", {"texts": ["w1"]})
    yield _json("/v1/encoders/bae/texts/encode", {"texts": ["w1"]}, "texts of no language model")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _sent(path: str, arrays: dict[str, Any], way: str = "nested") -> Ask:
    """Arrays in JSON, as lists or as base64, or in safetensors; the answer comes in the same way."""
    if way == "safetensors":
        body = save({name: np.asarray(array) for name, array in arrays.items()})
        return Ask(f"{path} in safetensors", "POST", path, body, {"content-type": BINARY})
    written = {name: _listed(np.asarray(array), way) for name, array in arrays.items()}
    query = f"{path}{'&' if '?' in path else '?'}arrays={way}" if way == "base64" else path
    return _json(query, written)


def _listed(array: np.ndarray, way: str) -> Any:
    if way == "nested":
        return array.tolist()
    data = base64.b64encode(array.tobytes()).decode()
    return {"data": data, "dtype": array.dtype.name, "shape": list(array.shape)}


def _json(path: str, body: Any, name: str = "", **headers: str) -> Ask:
    return Ask(name or f"{path} in JSON", "POST", path, json.dumps(body).encode(), {"content-type": JSON, **headers})
