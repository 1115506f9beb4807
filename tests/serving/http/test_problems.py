"""Everything that can be wrong with a request is said as a problem, and never repeats what was sent."""

import base64
import json
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from bae_ray.compression import compress
from bae_ray.serving.http.problems import KINDS
from tests.serving.support import KEY, LIMITS, NARROW_KEY, D, F, Served

BINARY = {"content-type": "application/x-safetensors"}
ENCODE = "/v1/encoders/bae/encode"
row = [0.5] * D


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer, which has to be this problem."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    found = response.json()
    assert (response.status_code, found["code"]) == (status, code), found
    assert found["status"] == status == KINDS[code].status
    assert found["type"] == f"urn:bae-ray:problem:{code}"
    assert found["title"] == KINDS[code].title
    assert found["request_id"] == response.headers["x-request-id"]
    return found


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("", 400, "malformed"),
        ("{", 400, "malformed"),
        ("[" * 100_000, 400, "malformed"),
        ("[]", 422, "invalid"),
        ("{}", 422, "invalid"),
        ('{"x": [[1]], "y": 1}', 422, "invalid"),
        ('{"x": null}', 422, "invalid"),
        ('{"x": []}', 422, "invalid"),
        ('{"x": [1, 2]}', 422, "invalid"),
        ('{"x": [[1, 2], [1]]}', 422, "invalid"),
        ('{"x": [["a"]]}', 422, "invalid"),
        ('{"x": [[[1]]]}', 422, "invalid"),
        ('{"x": [[1' + "0" * 400 + "]]}", 422, "invalid"),
        (json.dumps({"x": [[0.5] * (D + 1)]}), 422, "wrong_width"),
        (json.dumps({"x": [row] * (LIMITS.max_rows + 1)}), 413, "too_many_rows"),
        (json.dumps({"x": [[float("nan")] * D]}), 422, "not_finite"),
        (json.dumps({"x": [[float("inf")] * D]}), 422, "not_finite"),
        ('{"x": [' + str(["1e999"] * D).replace("'", "") + "]}", 422, "not_finite"),
        ('{"x": [' + str(["1e39"] * D).replace("'", "") + "]}", 422, "not_finite"),
        ('{"x": {"data": "!", "dtype": "float32", "shape": [1, 16]}}', 422, "invalid"),
        ('{"x": {"data": "AAAA", "dtype": "float32", "shape": [1, 16]}}', 422, "invalid"),
        ('{"x": {"data": "AAAA", "dtype": "complex64", "shape": [1, 16]}}', 422, "invalid"),
        ('{"x": {"data": "", "dtype": "float32", "shape": [1099511627776, 1099511627776]}}', 422, "invalid"),
        ('{"x": {"data": "", "dtype": "float32", "shape": [-1, 16]}}', 422, "invalid"),
        ('{"x": {"data": "", "dtype": "float32", "shape": [0, 16]}}', 422, "invalid"),
    ],
)
def test_json_that_is_wrong(http: httpx.Client, body: str, status: int, code: str):
    response = http.post(ENCODE, content=body, headers={"content-type": "application/json"})
    found = problem(response, status, code)
    assert "0.5" not in found["detail"]
    assert len(response.content) < 600, "the input is not echoed"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed"),
        (b"\x00" * 7, 400, "malformed"),
        (struct.pack("<Q", 1 << 62) + b"{}", 400, "malformed"),
        (struct.pack("<Q", 100) + b"{}", 400, "malformed"),
        (save({"y": np.zeros((1, D), np.float32)}), 422, "invalid"),
        (save({"x": np.zeros((1, D), np.float32), "y": np.zeros(1, np.float32)}), 422, "invalid"),
        (save({"x": np.zeros((1, D), bool)}), 422, "invalid"),
        (save({"x": np.zeros((0, D), np.float32)}), 422, "invalid"),
        (save({"x": np.zeros((1, 1, D), np.float32)}), 422, "invalid"),
        (save({"x": np.zeros((1, D + 1), np.float32)}), 422, "wrong_width"),
        (save({"x": np.full((1, D), np.nan, np.float32)}), 422, "not_finite"),
        (save({"x": np.full((1, D), -np.inf, np.float16)}), 422, "not_finite"),
        (save({"x": np.full((1, D), 1e300, np.float64)}), 422, "not_finite"),
        (save({"x": np.zeros((LIMITS.max_rows + 1, D), np.float32)}), 413, "too_many_rows"),
    ],
)
def test_safetensors_that_are_wrong(http: httpx.Client, body: bytes, status: int, code: str):
    problem(http.post(ENCODE, content=body, headers=BINARY), status, code)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("bae/decode", {"latents": [[0.0] * F], "code": [[0] * 6]}, 422, "invalid"),
        ("bae/decode", {"code": [[0] * 5]}, 422, "wrong_width"),
        ("bae/decode", {"code": [[256] * 6]}, 422, "invalid"),
        ("bae/decode", {"code": [[0.5] * 6]}, 422, "invalid"),
        ("bae/decode", {"indices": [[F]]}, 422, "invalid"),
        ("bae/decode", {"indices": [[-1]]}, 422, "invalid"),
        ("bae/decode", {"indices": [[1 << 70]]}, 422, "invalid"),
        ("bae/decode", {"indices": [1, 2], "splits": {"data": "", "dtype": "int64", "shape": [0]}}, 422, "invalid"),
        ("bae/decode", {"splits": [0]}, 422, "invalid"),
        ("bae/decode", {"latents": [[3.4e38] * F]}, 422, "not_finite"),
        ("relu/decode", {"code": [[0] * 6]}, 422, "not_binary"),
        ("relu/compress", {"x": [row]}, 422, "not_binary"),
        ("relu/encode", {"x": [row]}, 422, "not_binary"),
        ("bae/encode?top_k=3", {"x": [row]}, 422, "invalid"),
        (f"bae/encode?format=indices&top_k={F + 1}", {"x": [row]}, 422, "invalid"),
        ("bae/encode?format=indices&top_k=0", {"x": [row]}, 422, "invalid"),
        ("bae/encode?format=other", {"x": [row]}, 422, "invalid"),
        ("run/compress?scheme=tree", {"x": [row]}, 422, "no_tree"),
        ("relu/compress?scheme=tree", {"x": [row]}, 422, "not_binary"),
        ("bae/compress?scheme=tree&threshold=-0.5", {"x": [row]}, 422, "invalid"),
        ("bae/compress?scheme=zip", {"x": [row]}, 422, "invalid"),
        ("bae/compress?threshold=-0.5", {"x": [row]}, 422, "invalid"),
        ("bae/compress?scheme=indices&threshold=nan", {"x": [row]}, 422, "invalid"),
        ("bae/decompress", {"data": "AAAA"}, 422, "corrupt"),
        ("bae/decompress", {"data": 3}, 422, "invalid"),
        ("bae/texts/encode", {"texts": ["w1"]}, 422, "no_language_model"),
        ("run/texts/encode", {"texts": []}, 422, "invalid"),
        ("run/texts/encode", {"texts": [1]}, 422, "invalid"),
        ("run/texts/encode", {"texts": ["w1"] * (LIMITS.max_texts + 1)}, 413, "too_much_text"),
        ("run/texts/encode", {"texts": ["w1 " * (LIMITS.max_tokens + 1)]}, 413, "too_much_text"),
        ("nobody/encode", {"x": [row]}, 404, "encoder_not_found"),
        ("cut/encode", {"x": [row]}, 503, "encoder_broken"),
    ],
)
def test_what_each_route_refuses(http: httpx.Client, path: str, body: dict, status: int, code: str):
    problem(http.post(f"/v1/encoders/{path}", json=body), status, code)


def test_no_such_address_feature_or_method(http: httpx.Client):
    problem(http.get("/v1/nothing"), 404, "not_found")
    problem(http.get(f"/v1/encoders/bae/features/{F}"), 404, "feature_not_found")
    problem(http.get("/v1/encoders/bae/features/-1"), 422, "invalid")
    response = http.get(ENCODE)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "name", ["..%2Fbae", "%2e%2e", "bae%2F..%2Fbae", "..", "%00", "bae%00", "bae%20", "BAE", "a" * 5000, "%ff", "*"]
)
def test_an_id_is_never_a_path(http: httpx.Client, name: str):
    response = httpx.get(f"{http.base_url}/v1/encoders/{name}".replace("//v1", "/v1"), headers=http.headers)
    assert response.status_code == 404
    assert response.json()["code"] in ("encoder_not_found", "not_found")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/octet-stream", "application/jsonx"])
def test_media_types_that_are_not_taken(http: httpx.Client, kind: str | None):
    headers = {} if kind is None else {"content-type": kind}
    problem(http.post(ENCODE, content=b"{}", headers=headers), 415, "unsupported_media_type")
    response = http.post("/v1/encoders/run/texts/encode", content=b"", headers=BINARY)
    problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/x-safetensors", "application/x-safetensors"),
        ("application/json;q=0.1, application/x-safetensors;q=0.5", "application/x-safetensors"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_the_answer_is_what_is_accepted(http: httpx.Client, accept: str, given: str):
    response = http.post(ENCODE, json={"x": [row]}, headers={"accept": accept})
    assert response.headers["content-type"] == given


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0, application/x-safetensors;q=0", "image/*"])
def test_what_cannot_be_accepted(http: httpx.Client, accept: str):
    problem(http.post(ENCODE, json={"x": [row]}, headers={"accept": accept}), 406, "not_acceptable")
    problem(http.get("/v1/encoders", headers={"accept": accept}), 406, "not_acceptable")


def test_keys(served: Served):
    with httpx.Client(base_url=served.url) as anyone:
        response = anyone.get("/v1/encoders")
        problem(response, 401, "no_key")
        assert response.headers["www-authenticate"] == "Bearer"
        problem(anyone.get("/v1/encoders", headers={"authorization": f"Basic {KEY}"}), 401, "no_key")
        for wrong in ("x" * 32, KEY[:-1], KEY + "k", "é"):
            headers = [(b"authorization", f"Bearer {wrong}".encode())]
            problem(anyone.get("/v1/encoders", headers=headers), 401, "wrong_key")
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert anyone.get(path).status_code == 200, path
        narrow = {"authorization": f"Bearer {NARROW_KEY}"}
        listed = anyone.get("/v1/encoders", headers=narrow).json()["encoders"]
        assert {encoder["id"] for encoder in listed} == {"relu", "run"}
        problem(anyone.post(ENCODE, json={"x": [row]}, headers=narrow), 403, "not_allowed")
        problem(anyone.get("/v1/encoders/nobody", headers=narrow), 403, "not_allowed")


def test_a_body_that_is_too_large_is_refused_by_its_length_and_as_it_streams(http: httpx.Client):
    headers = {"content-type": "application/json"}
    problem(http.post(ENCODE, content=b" " * (LIMITS.max_body_bytes + 1), headers=headers), 413, "body_too_large")
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(10_000):
            sent += 1 << 16
            yield b" " * (1 << 16)

    with suppress(httpx.WriteError):  # the service may close the connection while the body is on its way
        problem(http.post(ENCODE, content=chunks(), headers=headers), 413, "body_too_large")
    assert http.get("/livez").status_code == 200


def test_an_answer_that_would_be_too_large(http: httpx.Client):
    x = np.zeros((LIMITS.max_rows, D), np.float32)
    assert http.post(f"{ENCODE}?format=magnitudes", content=save({"x": x}), headers=BINARY).status_code == 200
    nested = http.post(
        "/v1/encoders/bae/decode", json={"latents": [[0.0] * F] * LIMITS.max_rows}, params={"arrays": "nested"}
    )
    assert nested.status_code == 200, "256 rows of 16 numbers are few"


def test_a_bomb_is_refused_by_its_header(http: httpx.Client):
    import torch

    rows = LIMITS.max_rows + 1
    bomb = compress(torch.zeros(rows, F), torch.zeros(F), block_rows=rows)
    assert len(bomb) < 3000
    problem(http.post("/v1/encoders/bae/decompress", content=bomb, headers=BINARY), 413, "too_many_rows")
    other = compress(torch.zeros(4, F), torch.zeros(F))
    problem(http.post("/v1/encoders/bae/decompress", content=other, headers=BINARY), 422, "corrupt")
    wider = compress(torch.zeros(4, F + 1), torch.zeros(F + 1))
    problem(http.post("/v1/encoders/bae/decompress", content=wider, headers=BINARY), 422, "wrong_width")
    damaged = bytearray(other)
    damaged[len(damaged) // 2] ^= 1
    body = {"data": base64.b64encode(damaged).decode()}
    problem(http.post("/v1/encoders/bae/decompress", json=body), 422, "corrupt")


def test_a_body_that_does_not_come(served: Served):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST {ENCODE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        connection.sendall((head + "Content-Length: 1000\r\n\r\n").encode() + b'{"x"')
        started = time.monotonic()
        answer = connection.recv(65536)
        assert b"408" in answer.split(b"\r\n")[0]
        assert time.monotonic() - started < LIMITS.body_timeout_s + 10


def test_the_clients_request_id_is_kept(http: httpx.Client):
    response = http.get("/v1/nothing", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine-1"


def test_metrics_count_requests(http: httpx.Client):
    http.post(ENCODE, json={"x": [row]})
    page = http.get("/metrics").text
    assert 'route="/v1/encoders/{encoder_id}/encode",status="200"' in page
    assert "bae_ray_batch_rows_bucket" in page
    assert 'bae_ray_encoders{status="ready"}' in page
