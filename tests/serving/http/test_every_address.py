"""What every address does alike: HEAD, codings of bodies, parameters that it does not have."""

import gzip
import json
import socket

import httpx
import pytest

from tests.serving.http.test_problems import ENCODE, problem
from tests.serving.support import KEY, D, Served

GETS = [
    "/v1/encoders", "/v1/encoders/bae", "/v1/encoders/bae/features/3", "/livez", "/readyz", "/openapi.json", "/docs",
    "/v1/nothing", "/v1/encoders/nobody", "/v1/encoders/cut/features/0",
]  # fmt: skip
BODY = json.dumps({"x": [[0.5] * D]}).encode()


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(http: httpx.Client, path: str):
    got, head = http.get(path), http.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    told = ("content-type", "x-encoder-version", "allow", "retry-after", "link")
    assert {name: head.headers.get(name) for name in told} == {name: got.headers.get(name) for name in told}
    if got.is_success:
        assert int(head.headers["content-length"]) == len(got.content)


def test_head_sends_no_byte_after_its_headers(served: Served):
    """httpx would hide it; a byte too many is the beginning of the next answer of a connection that is kept."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for path in ("/v1/encoders/bae", "/v1/encoders/nobody", "/livez"):
            head = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
            connection.sendall(head.encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                answer += connection.recv(65536)
            connection.settimeout(30)
            assert answer.endswith(b"\r\n\r\n"), answer


def test_other_methods_are_told_those_that_there_are(http: httpx.Client):
    assert http.delete("/v1/encoders").headers["allow"] == "GET, HEAD"
    response = http.head(ENCODE)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path",
    [*GETS[:7], ENCODE, "/v1/encoders/bae/compress", "/v1/encoders/run/texts/encode", "/v1/encoders/run/texts/steer"],
)
@pytest.mark.parametrize("coding", ["gzip", "deflate, identity", "br", "x"])
def test_bodies_that_are_coded_are_refused_everywhere(http: httpx.Client, path: str, coding: str):
    headers = {"content-encoding": coding, "content-type": "application/json"}
    method = "GET" if path in GETS else "POST"
    response = http.request(method, path, content=gzip.compress(BODY), headers=headers)
    problem(response, 415, "unsupported_coding")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "", "Identity, identity"])
def test_a_body_as_it_is_may_say_so(http: httpx.Client, coding: str):
    headers = {"content-encoding": coding, "content-type": "application/json"}
    assert http.post(ENCODE, content=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "near"),
    [
        (f"{ENCODE}?formt=packed", "format"),
        (f"{ENCODE}?format=indices&topk=3", "top_k"),
        (f"{ENCODE}?FORMAT=packed", "format"),
        (f"{ENCODE}?array=base64", "arrays"),
        ("/v1/encoders/bae/compress?treshold=-0.5", "threshold"),
        ("/v1/encoders/run/texts/encode?k=3", "top_k"),
        (f"{ENCODE}?%", "format"),
        (f"{ENCODE}?format=packed&format=indices", "format is in the query more than once"),
    ],
)
def test_parameters_that_there_are_not(http: httpx.Client, path: str, near: str):
    detail = problem(http.post(path, json=json.loads(BODY)), 422, "invalid")["detail"]
    assert near in detail
    assert "treshold" not in detail, "what was sent is not repeated"


@pytest.mark.parametrize(
    "path", ["/v1/encoders/bae?limit=1", "/v1/encoders/bae/features/3?top_k=1", "/v1/encoders?a=1"]
)
def test_parameters_that_reads_do_not_have(http: httpx.Client, path: str):
    problem(http.get(path), 422, "invalid")
    assert http.get("/livez?probe=7").status_code == 200, "a probe's own"
