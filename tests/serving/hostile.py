"""Requests as nobody should send them, drawn from a seed."""

import base64
import json
import random
import struct
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save

from bae_ray.compression import compress
from tests.serving.support import LIMITS, D, F

IDS = [
    "bae",
    "relu",
    "run",
    "nobody",
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "bae%00",
    "%ff",
    "a" * 300,
    "*",
    "bae;x",
]
VERBS = [
    "encode",
    "decode",
    "compress",
    "decompress",
    "texts/encode",
    "texts/steer",
    "texts/fidelity",
    "features/0",
    "features/1e9",
    "",
    "../encode",
]
MEDIA = ["application/json", "application/x-safetensors", "text/plain", "", "application/json; charset=utf-16", "\x7f"]
QUERIES = [
    "", "", "?top_k=-1", "?top_k=99999999999999999999", "?format=%00", "?arrays=base64&top_k=3", "?format=magnitudes",
    "?scheme=indices&threshold=nan", "?format=packed", "?%",
]  # fmt: skip
NUMBERS = ["1", "-0", "1e999", "-1e999", "NaN", "Infinity", "1" * 400, "null", '"a"', "[]", "{}", "true", "1e-400"]
DTYPES = ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "X", ""]


class Request(NamedTuple):
    """A request to send."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes


def draw(generator: random.Random) -> Request:
    """One of them."""
    encoder = generator.choice(IDS[:3] if generator.random() < 0.7 else IDS)
    verb = generator.choice(VERBS[:7] if generator.random() < 0.8 else VERBS)
    query = generator.choice(QUERIES)
    make = generator.choice([_json, _nested, _packed, _safetensors, _header, _container, _noise])
    content = make(generator)
    media = MEDIA[1] if make in (_safetensors, _header, _container) else MEDIA[0]
    headers = {"content-type": media if generator.random() < 0.9 else generator.choice(MEDIA)}
    if generator.random() < 0.2:
        headers["accept"] = generator.choice(["*/*", "text/html", MEDIA[1], ";;q=,", "a/b;q=nan, */*;q=x"])
    if generator.random() < 0.1:
        headers["x-request-id"] = generator.choice(["x" * 2000, "a b", "{}", "../.."])
    method = (
        "POST" if generator.random() < 0.95 else generator.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    )
    return Request(method, f"/v1/encoders/{encoder}/{verb}{query}", headers, content)


def _json(g: random.Random) -> bytes:
    deep = "[" * g.choice([1, 10, 1000, 100_000])
    texts = json.dumps({"texts": ["\ud800", "w1 " * g.choice([1, 100, 10_000])]})
    odd_features = {"feature": g.choice([1, -1, F, 1 << 70, "1"]), "strength": g.choice([1, 1e300, None])}
    steer = json.dumps({"text": g.choice(["w1", "", "w1 " * 10_000]), "add": [odd_features] * g.choice([0, 1, 1000])})
    data = json.dumps({"data": "A" * g.choice([1, 4, 4000])})
    odd = [b"", b"{", b"null", b'"x"', b"\xff\xfe", b'{"x": 1, "x": 2}', b'{"x":' + deep.encode()]
    # NumPy would make every number of the row as long as the text.
    long = json.dumps({"x": [["a" * g.choice([1, 100_000]), *["b"] * g.choice([1, 10_000])]]})
    return g.choice([*odd, deep.encode(), texts.encode(), steer.encode(), data.encode(), long.encode()])


def _nested(g: random.Random) -> bytes:
    name = g.choice(["x", "x", "code", "indices", "latents", "splits", "y"])
    width = g.choice([D, D, D, D + 1, 0, F, 6, 5000])
    rows = g.choice([1, 1, 2, LIMITS.max_rows, LIMITS.max_rows + 1, 0])
    row = [g.choice(NUMBERS) if g.random() < 0.05 else str(g.choice([0, 1, 0.5, -3e38, 44, 255])) for _ in range(width)]
    listed = ",".join(["[" + ",".join(row) + "]"] * rows)
    return f'{{"{name}": [{listed}]}}'.encode()


def _packed(g: random.Random) -> bytes:
    shape: list[Any] = [g.choice([1, 0, -1, 1 << 40, 1 << 62, 2.5, None, "1"]), g.choice([D, D, F, 0, 1 << 31])]
    data = base64.b64encode(g.randbytes(g.choice([0, 4, 4 * D, 4 * D, 8 * D]))).decode()
    if g.random() < 0.1:
        data = data[:-1] + "!"
    value = {"data": data, "dtype": g.choice(["float32", "float32", "bfloat16", "int64", "object", 7]), "shape": shape}
    return json.dumps({g.choice(["x", "code", "indices", "latents"]): value}).encode()


def _safetensors(g: random.Random) -> bytes:
    rows = g.choice([1, 2, 0, LIMITS.max_rows + 1])
    array = np.zeros((rows, g.choice([D, D, D, F, 1])), g.choice(["f4", "f2", "f8", "i4", "u1", "?"]))
    if array.size and array.dtype.kind == "f" and g.random() < 0.5:
        array[0, 0] = g.choice([np.nan, np.inf, 6e4])
    content = bytearray(save({g.choice(["x", "x", "code", "latents", "indices"]): array}))
    for _ in range(g.choice([0, 0, 1, 4])):
        content[g.randrange(len(content))] = g.randrange(256)
    return bytes(content[: g.choice([len(content), len(content), len(content) // 2])])


def _header(g: random.Random) -> bytes:
    entry = {
        "dtype": g.choice(DTYPES),
        "shape": [g.choice([1, 1 << 62, -1, 0]), g.choice([D, 1 << 62])],
        "data_offsets": [g.choice([0, 1 << 62, -5]), g.choice([64, 0, 1 << 63])],
    }
    text = json.dumps({"x": entry, "__metadata__": {"a": g.choice(["b", 1, None])}}).encode()
    length = g.choice([len(text), len(text), 1 << 20, 1 << 63, 0])
    return struct.pack("<Q", length) + text + bytes(g.choice([0, 64]))


def _container(g: random.Random) -> bytes:
    rows = g.choice([1, 3, LIMITS.max_rows + 1, 100_000])
    content = bytearray(compress(torch.zeros(rows, F), torch.zeros(F)))
    for _ in range(g.choice([0, 1, 3])):
        content[g.randrange(len(content))] ^= 1 << g.randrange(8)
    return bytes(content)


def _noise(g: random.Random) -> bytes:
    return g.randbytes(g.choice([1, 100, 10_000, LIMITS.max_body_bytes + 1]))
