"""The client's calls without a service: what it sends, and what it makes of answers that follow a change."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bae_ray.client.endpoints import Calls
from bae_ray.client.requests import HEADER_BYTES, Call
from bae_ray.client.service_errors import InvalidRequestError, RequestTooLargeError, ServiceError
from bae_ray.client.split_containers import split_container
from bae_ray.compression import compress, decompress, read_header
from bae_ray.errors import InvalidInputError

LIMITS = {"max_body_bytes": 1 << 20, "max_rows": 2, "max_response_bytes": 1 << 20, "max_texts": 4}
X = np.zeros((3, 4), np.float32)


class Flows(Calls):
    """Calls whose requests are not sent: each gives its flow."""

    def __init__(self, known: dict[str, Any]) -> None:
        super().__init__()
        self._known = known

    def run(self, flow: Any) -> Any:
        return flow


def description(latents: int) -> dict[str, Any]:
    return {"id": "e", "status": "ready", "version": f"v{latents}", "d_in": 4, "d_latent": latents,
            "n_features": latents, "binary": True, "limits": LIMITS}  # fmt: skip


def reply(latents: int, **content: Any) -> httpx.Response:
    """An answer of the encoder that has so many latents."""
    return httpx.Response(200, headers={"x-encoder-version": f"v{latents}"}, **content)


def answered(flow: Any, latents: list[int], described: int) -> tuple[Any, int]:
    """What a flow returns where the encoder of each answer has so many latents, all of them firing; requests sent."""
    sent, answers = 0, iter(latents)
    call = next(flow)
    while True:
        if call.method == "GET":
            response = httpx.Response(200, json=description(described))
        else:
            sent += 1
            rows, width = load(call.content)["x"].shape[0], next(answers)
            code = np.packbits(np.ones((rows, width), bool), axis=1)
            response = reply(width, content=save({"code": code}))
        try:
            call = flow.send(response)
        except StopIteration as returned:
            return returned.value, sent


@pytest.mark.parametrize(
    ("latents", "sent"),
    [([44, 44], 2), ([48, 48, 48], 3), ([44, 48, 48, 48], 4)],
    ids=["as known", "replaced before", "replaced between two parts"],
)
def test_no_latent_is_lost_where_an_id_is_taken_by_a_wider_encoder(latents: list[int], sent: int):
    known = {"e": description(44)}
    code, requests = answered(Flows(known).encode("e", X, returns="numpy"), latents, latents[-1])
    assert code.shape == (3, latents[-1])
    assert code.all()
    assert (requests, known["e"]["d_latent"]) == (sent, latents[-1])


@pytest.mark.parametrize("call", ["encode", "decode", "compress", "magnitudes", "texts"])
def test_no_two_encoders_are_joined_though_they_are_of_one_shape(call: str):
    """The id is taken by another encoder of the same widths between two parts: all is asked of the new one."""
    answered_by = iter(["v8", "new", "new", "new"])

    def service(sent: Call) -> httpx.Response:
        if sent.method == "GET":
            return httpx.Response(200, json={**description(8), "version": "new"})
        version = next(answered_by)
        rows = 1 if call == "texts" else load(sent.content or b"")["code" if call == "decode" else "x"].shape[0]
        made = {
            "encode": {"code": np.full((rows, 1), 255, np.uint8)},
            "decode": {"x": np.ones((rows, 4), np.float32)},
            "magnitudes": {"magnitudes": np.ones((rows, 8), np.float32)},
        }
        token = {"id": 0, "text": version, "start": 0, "end": 0, "features": []}
        content: dict[str, Any] = (
            {"json": {"texts": [{"tokens": [token]}] * len(sent.json["texts"])}} if call == "texts"
            else {"content": version.encode() if call == "compress" else save(made[call])}
        )  # fmt: skip
        return httpx.Response(200, headers={"x-encoder-version": version}, **content)

    known = {"e": description(8)}
    flow = {
        "encode": lambda: Flows(known).encode("e", X, returns="numpy"),
        "decode": lambda: Flows(known).decode("e", np.ones((3, 8), np.uint8), returns="numpy"),
        "compress": lambda: Flows(known).compress("e", X),
        "magnitudes": lambda: Flows(known).magnitudes("e", X, returns="numpy"),
        "texts": lambda: Flows(known).encode_texts("e", ["a"] * 5, top_k=1),
    }[call]()
    found = served(flow, service)
    assert len(found) == {"compress": 2, "texts": 5}.get(call, 3)
    assert known["e"]["version"] == "new"
    if call == "compress":
        assert found == [b"new", b"new"]
    if call == "texts":
        assert set(found["token"]) == {"new"}


def test_an_encoder_that_never_stays_the_same_is_said():
    with pytest.raises(InvalidInputError, match="encoder e is being replaced"):
        answered(Flows({"e": description(44)}).encode("e", X, returns="numpy"), [48, 44] * 3, 44)


def served(flow: Any, service: Callable[[Call], httpx.Response | ServiceError]) -> Any:
    """What a flow returns, its calls answered by `service`."""
    answer = service(next(flow))
    while True:
        try:
            answer = service(flow.throw(answer) if isinstance(answer, ServiceError) else flow.send(answer))
        except StopIteration as returned:
            return returned.value


@pytest.mark.parametrize(("rows", "limit"), [(1000, 1 << 20), (10**6, 2500), (1000, 2500), (1, 1)])
def test_a_container_is_split_into_containers_of_its_blocks(rows: int, limit: int):
    torch.manual_seed(0)
    code = (torch.rand(5000, 40) < 0.2).to(torch.uint8)
    whole = compress(code, torch.full((40,), 0.2), block_rows=64, model_hash="m")
    parts = split_container(whole, rows, limit)
    assert torch.equal(torch.cat([decompress(part) for part in parts]), code)
    for part in parts:
        header = read_header(part)
        assert (header.block_rows, header.model_hash, header.d_latent) == (64, "m", 40)
        assert header.rows <= max(rows, 64)
        assert len(part) <= limit or header.blocks == 1
    assert len(parts) > 1
    least = max(-(-5000 // max(64, rows // 64 * 64)), len(whole) // max(limit, 2000))
    assert len(parts) >= least


def test_a_container_that_is_small_or_none_is_sent_as_it_is():
    whole = compress(torch.zeros(100, 8), torch.zeros(8), block_rows=10)
    assert split_container(whole, 100, len(whole)) == [whole]
    for wrong in (b"", b"x" * 100, whole[:500], save({"x": X})):
        assert split_container(wrong, 1, 1) == [wrong]


def test_a_container_whose_header_is_damaged_is_sent_as_it_is():
    whole = compress(torch.zeros(100, 8), torch.zeros(8), block_rows=10)
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    about, others = header["__metadata__"], {name: header[name] for name in header if name != "__metadata__"}
    damaged: list[Any] = [[], None, {}, others, {**others, "__metadata__": []}, {**header, "offsets": 3}]
    damaged += [{**others, "__metadata__": {**about, name: value}} for name in ("rows", "block_rows")
                for value in (None, "x", [])]  # fmt: skip
    damaged += [{**others, "__metadata__": {**about, "block_rows": "0"}}, {**others, "__metadata__": {"rows": "100"}}]
    for one in damaged:
        text = json.dumps(one).encode()
        wrong = len(text).to_bytes(8, "little") + text + whole[start:]
        assert split_container(wrong, 20, 10**6) == [wrong], one
    deep = b"[" * 100_000
    assert split_container(len(deep).to_bytes(8, "little") + deep, 1, 1) == [len(deep).to_bytes(8, "little") + deep]


@pytest.mark.parametrize("data", [[], [3], "text", [None]])
def test_what_holds_no_containers_is_not_sent(data: Any):
    with pytest.raises(InvalidInputError, match="no containers"):
        next(Flows({"e": description(8)}).decompress("e", data))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_container_is_any_bytes(kind: Callable[[bytes], Any]):
    whole = compress(torch.zeros(2, 8), torch.zeros(8))
    for data in (kind(whole), [kind(whole)]):
        assert next(Flows({"e": description(8)}).decompress("e", data)).content == whole


def test_decompress_sends_parts_and_joins_their_rows():
    code = torch.eye(8, dtype=torch.uint8)[:5]
    whole = compress(code, torch.full((8,), 0.3), block_rows=1)
    sent = []

    def service(call: Call) -> httpx.Response:
        assert call.content is not None
        sent.append(decompress(call.content))
        return reply(8, content=save({"x": sent[-1].numpy().astype(np.float32)}))

    found = served(Flows({"e": description(8)}).decompress("e", [whole, whole]), service)
    assert [len(part) for part in sent] == [2, 2, 1, 2, 2, 1]
    assert np.array_equal(found, torch.cat([code, code]).numpy())


def texts_service(most_tokens: int, sent: list[list[str]]) -> Callable[[Call], httpx.Response | ServiceError]:
    """A token for each word of a text; more than so many together are too large an answer."""

    def service(call: Call) -> httpx.Response | ServiceError:
        if call.method == "GET":
            return httpx.Response(200, json=description(8))
        sent.append(call.json["texts"])
        words = [text.split() for text in call.json["texts"]]
        if sum(map(len, words)) > most_tokens:
            return RequestTooLargeError("too large", 413, "answer_too_large")
        token = {"id": 0, "start": 0, "end": 0, "features": []}
        answer = [{"tokens": [{**token, "text": word} for word in row]} for row in words]
        return reply(8, json={"texts": answer})

    return service


def test_texts_are_sent_by_number_and_bytes_and_halved_where_their_tokens_are_too_many():
    texts = ["a b", "c", "d e f", "g", "h i j k", "l" * 50]
    sent: list[list[str]] = []
    small = {"e": {**description(8), "limits": {**LIMITS, "max_body_bytes": HEADER_BYTES + 40}}}
    found = served(Flows(small).encode_texts("e", texts, top_k=1), texts_service(4, sent))
    assert found["token"].tolist() == [word for text in texts for word in text.split()]
    assert found["text"].tolist() == [i for i, text in enumerate(texts) for _ in text.split()]
    assert all(len(group) <= 4 for group in sent)
    assert all(len(json.dumps({"texts": group})) <= HEADER_BYTES + 40 or len(group) == 1 for group in sent)
    assert sent[0] == ["a b", "c", "d e f", "g"], "7 tokens, so that it comes again in halves"
    assert sent[1:3] == [["a b", "c"], ["d e f", "g"]]
    with pytest.raises(RequestTooLargeError):
        served(Flows({"e": description(8)}).encode_texts("e", ["a b c"], top_k=1), texts_service(2, []))


@pytest.mark.parametrize("refusal", [RequestTooLargeError, InvalidRequestError])
@pytest.mark.parametrize(("now", "sizes"), [(1, [2, 1, 1, 1]), (2, [2])])
def test_limits_that_have_changed_are_asked_for_and_kept_once(refusal: type[ServiceError], now: int, sizes: list[int]):
    """The service took 2 rows, and now takes 1, or refuses for another reason."""
    sent: list[int] = []

    def service(call: Call) -> httpx.Response | ServiceError:
        if call.method == "GET":
            return httpx.Response(200, json={**description(8), "limits": {**LIMITS, "max_rows": now}})
        assert call.content is not None
        rows = load(call.content)["x"].shape[0]
        sent.append(rows)
        if rows > 1:
            return refusal("no", 413, "too_many_rows")
        return reply(8, content=save({"code": np.zeros((1, 1), np.uint8)}))

    flow = Flows({"e": description(8)}).encode("e", X, returns="numpy")
    if now == 1:
        assert served(flow, service).shape == (3, 8)
    else:
        with pytest.raises(refusal):
            served(flow, service)
    assert sent == sizes
