"""Every route over real HTTP, in JSON and in safetensors, against the library's own results."""

import base64
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from transformers import AutoModel, AutoTokenizer

from bae_ray import load_autoencoder
from bae_ray.client import Client
from bae_ray.compression import TableChoice, compress_activations, decompress, decompress_activations, read_header
from bae_ray.compression.config import SchemeChoice
from tests.serving.support import D, F, Served, make_encoder, until, write_cards

JSON, BINARY = "application/json", "application/x-safetensors"
x = np.random.default_rng(0).normal(size=(7, D)).astype(np.float32) * 3


def as_base64(array: np.ndarray) -> dict[str, Any]:
    return {"data": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.name, "shape": list(array.shape)}


def post(http: httpx.Client, path: str, arrays: dict[str, np.ndarray], way: str, **params: Any) -> dict[str, Any]:
    """The answer's arrays and fields, sent and asked for in one of the ways that there are."""
    if way == "safetensors":
        response = http.post(path, content=save(arrays), headers={"content-type": BINARY}, params=params)
        assert response.headers["content-type"] == BINARY
        assert response.status_code == 200
        return load(response.content)
    listed = {name: array.tolist() if way == "nested" else as_base64(array) for name, array in arrays.items()}
    response = http.post(path, json=listed, params={**params, "arrays": way})
    assert (response.status_code, response.headers["content-type"]) == (200, JSON), response.text
    return {
        name: np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
        if isinstance(value, dict)
        else value
        for name, value in response.json().items()
    }


@pytest.fixture
def bae(served: Served):
    return load_autoencoder(served.registry / "bae")


@pytest.fixture
def relu(served: Served):
    return load_autoencoder(served.registry / "relu")


ways = pytest.mark.parametrize("way", ["nested", "base64", "safetensors"])


@ways
def test_encode_packs_the_librarys_code(http: httpx.Client, bae, way: str):
    answer = post(http, "/v1/encoders/bae/encode", {"x": x}, way)
    code = bae.encode(torch.from_numpy(x)).numpy()
    assert np.array_equal(answer["code"], np.packbits(code.astype(bool), axis=1)), "MSB first, as numpy.packbits"


@ways
def test_encode_lists_the_latents_that_fire(http: httpx.Client, bae, way: str):
    answer = post(http, "/v1/encoders/bae/encode", {"x": x}, way, format="indices")
    wanted = [row.nonzero()[0].tolist() for row in bae.encode(torch.from_numpy(x)).numpy()]
    if way == "nested":
        assert answer["indices"] == wanted
    else:
        splits = answer["splits"]
        assert [answer["indices"][a:b].tolist() for a, b in pairwise(splits)] == wanted


@ways
@pytest.mark.parametrize("encoder", ["bae", "relu"])
def test_encode_gives_magnitudes_and_the_largest_of_them(http: httpx.Client, request, way: str, encoder: str):
    wanted = request.getfixturevalue(encoder).magnitudes(torch.from_numpy(x))
    answer = post(http, f"/v1/encoders/{encoder}/encode", {"x": x}, way, format="magnitudes")
    assert np.allclose(answer["magnitudes"], wanted.numpy(), rtol=1e-5, atol=1e-5)
    top = post(http, f"/v1/encoders/{encoder}/encode", {"x": x}, way, format="magnitudes", top_k=5)
    values = wanted.topk(5, dim=1).values.numpy()
    assert np.allclose(top["magnitudes"], values, rtol=1e-5, atol=1e-5)
    at = np.take_along_axis(wanted.numpy(), np.asarray(top["indices"]).astype(np.int64), 1)
    assert np.allclose(at, values, rtol=1e-5, atol=1e-5)
    indices = post(http, f"/v1/encoders/{encoder}/encode", {"x": x}, way, format="indices", top_k=5)
    assert np.array_equal(indices["indices"], top["indices"])
    assert "magnitudes" not in indices


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_activations_of_any_dtype(http: httpx.Client, bae, dtype: str):
    given = x.astype(dtype)
    code = bae.encode(torch.from_numpy(given).float()).numpy()
    for way in ("base64", "safetensors"):
        answer = post(http, "/v1/encoders/bae/encode", {"x": given}, way)
        assert np.array_equal(answer["code"], np.packbits(code.astype(bool), axis=1))


def test_bfloat16(http: httpx.Client, bae):
    from safetensors.torch import save as save_torch

    given = torch.from_numpy(x).bfloat16()
    headers = {"content-type": BINARY}
    answer = http.post("/v1/encoders/bae/encode", content=save_torch({"x": given}), headers=headers)
    code = bae.encode(given.float()).numpy()
    assert np.array_equal(load(answer.content)["code"], np.packbits(code.astype(bool), axis=1))


@ways
def test_decode_of_packed_codes_and_of_latents(http: httpx.Client, bae, relu, way: str):
    code = bae.encode(torch.from_numpy(x))
    packed = np.packbits(code.numpy().astype(bool), axis=1)
    answer = post(http, "/v1/encoders/bae/decode", {"code": packed}, way)
    assert np.allclose(answer["x"], bae.decode(code).numpy(), rtol=1e-5, atol=1e-5)
    latents = relu.encode(torch.from_numpy(x))
    answer = post(http, "/v1/encoders/relu/decode", {"latents": latents.numpy()}, way)
    assert np.allclose(answer["x"], relu.decode(latents).numpy(), rtol=1e-5, atol=1e-5)


def test_decode_of_indices(http: httpx.Client, bae):
    code = bae.encode(torch.from_numpy(x))
    rows = [row.nonzero()[0] for row in code.numpy()]
    wanted = bae.decode(code).numpy()
    answer = http.post("/v1/encoders/bae/decode", json={"indices": [row.tolist() for row in rows]}).json()
    assert np.allclose(answer["x"], wanted, rtol=1e-5, atol=1e-5)
    flat = {
        "indices": np.concatenate(rows).astype(np.int32),
        "splits": np.cumsum([0, *map(len, rows)]).astype(np.int64),
    }
    for way in ("base64", "safetensors"):
        answer = post(http, "/v1/encoders/bae/decode", flat, way)
        assert np.allclose(answer["x"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("table", "media"), [("reference", "application/octet-stream"), ("embedded", BINARY)])
@pytest.mark.parametrize("scheme", ["entropy", "indices", "tree", "auto"])
def test_compress_and_decompress(http: httpx.Client, bae, scheme: SchemeChoice, table: TableChoice, media: str):
    found = [compress_activations(bae, torch.from_numpy(x), each, table=table)
             for each in (("entropy", "tree") if scheme == "auto" else (scheme,))]  # fmt: skip
    wanted = min(found, key=len)
    own = bae.tree if read_header(wanted).scheme == "tree" else bae.prior
    params = {"scheme": scheme} if table == "reference" else {"scheme": scheme, "table": table}
    headers = {"content-type": BINARY}
    binary = http.post("/v1/encoders/bae/compress", content=save({"x": x}), headers=headers, params=params)
    assert binary.headers["content-type"] == media
    assert binary.content == wanted
    answer = http.post("/v1/encoders/bae/compress", json={"x": x.tolist()}, params=params).json()
    assert base64.b64decode(answer["data"]) == wanted
    assert (answer["rows"], answer["bytes"]) == (len(x), len(wanted))

    back = http.post("/v1/encoders/bae/decompress", content=wanted, headers={"content-type": media})
    x_hat = decompress_activations(bae, wanted).numpy()
    assert np.allclose(load(back.content)["x"], x_hat, rtol=1e-5, atol=1e-5)
    back = http.post("/v1/encoders/bae/decompress", json={"data": answer["data"]}).json()
    assert np.allclose(back["x"], x_hat, rtol=1e-5, atol=1e-5)
    packed = http.post("/v1/encoders/bae/decompress", json={"data": answer["data"]}, params={"format": "packed"}).json()
    assert np.array_equal(packed["code"], np.packbits(decompress(wanted, prior=own).numpy(), axis=1))


def test_a_tree_that_comes_later_is_used(http: httpx.Client, bae, dropped: Path):
    """Of an encoder like `bae` but without a tree, until that is put beside it."""
    make_encoder(dropped)
    path, body = "/v1/encoders/dropped", {"x": x.tolist()}
    version = until(lambda: given.json()["version"] if (given := http.get(path)).status_code == 200 else None)
    refused = http.post(f"{path}/compress", json=body, params={"scheme": "tree"})
    assert (refused.status_code, refused.json()["code"]) == (422, "no_tree")
    found = http.post(f"{path}/compress", json=body, params={"scheme": "auto"}).json()
    assert read_header(base64.b64decode(found["data"])).scheme == "entropy"
    data = {
        table: compress_activations(bae, torch.from_numpy(x), "tree", table=table) for table in get_args(TableChoice)
    }
    x_hat = decompress_activations(bae, data["reference"]).numpy()

    def back(table: str) -> httpx.Response:
        return http.post(f"{path}/decompress", json={"data": base64.b64encode(data[table]).decode()})

    assert (back("reference").status_code, back("reference").json()["code"]) == (422, "corrupt")
    assert np.allclose(back("embedded").json()["x"], x_hat, rtol=1e-5, atol=1e-5)
    shutil.copy(dropped.with_name("bae") / "tree.safetensors", dropped / "copied")
    os.replace(dropped / "copied", dropped / "tree.safetensors")
    until(lambda: http.get(path).json()["version"] != version)
    found = http.post(f"{path}/compress", json=body, params={"scheme": "tree"}).json()
    assert base64.b64decode(found["data"]) == data["reference"]
    assert np.allclose(back("reference").json()["x"], x_hat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("table", ["cut off", "of another encoder"])
def test_an_encoder_whose_tree_is_none_is_broken(http: httpx.Client, dropped: Path, table: str):
    make_encoder(dropped, 0 if table == "cut off" else 3)
    tree = dropped.with_name("bae") / "tree.safetensors"
    (dropped / "tree.safetensors").write_bytes(tree.read_bytes()[: -8 if table == "cut off" else None])
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    answer = http.post("/v1/encoders/dropped/encode", json={"x": x.tolist()})
    assert (answer.status_code, answer.json()["code"]) == (503, "encoder_broken")
    assert "dropped/tree.safetensors" in answer.json()["detail"]
    assert str(dropped) not in answer.text


def test_feature(http: httpx.Client, bae):
    answer = http.get("/v1/encoders/bae/features/3").json()
    assert answer["firing_rate"] == pytest.approx(float(bae.prior[3]))
    off = torch.zeros(1, F)
    on = off.clone()
    on[0, 3] = 1
    gained = (bae.decode(on) - bae.decode(off))[0].numpy()
    assert np.allclose(answer["direction"], gained, atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(bae.W_dec, bae.W_dec[3:4])
    cosines[3] = -2
    assert answer["similar_indices"] == cosines.topk(10).indices.tolist()
    binary = http.get("/v1/encoders/bae/features/3", headers={"accept": BINARY})
    assert np.allclose(load(binary.content)["direction"], gained, atol=1e-5)


def test_a_features_card(http: httpx.Client, client: Client, dropped: Path):
    """As ComSem publishes it, of one feature of two; a damaged file takes nothing else away."""
    make_encoder(dropped)
    record = {"index": "3", "explanations": [{"description": "<b>numbers</b>"}], "activations": []}
    write_cards(dropped, record)
    path, html = "/v1/encoders/dropped/features", "text/html,application/xhtml+xml,*/*;q=0.8"
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    assert http.get(f"{path}/3").json()["card"] == record
    assert client.feature("dropped", 3).card == record
    assert http.get(f"{path}/4").json()["card"] is None
    page = http.get(f"{path}/3", headers={"accept": html})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<b>numbers" not in page.text
    assert "numbers" in page.text
    assert http.get(f"{path}/4", headers={"accept": html}).status_code == 406
    (dropped / "cards.parquet").write_bytes(b"PAR1")
    assert http.get(f"{path}/3").json()["card"] is None


def test_texts_are_encoded_by_the_encoders_own_model(http: httpx.Client, served: Served, tiny_model):
    texts = ["w1 w2 w3", "w59", "w7 nothing w8 w9"]
    answer = http.post("/v1/encoders/run/texts/encode", json={"texts": texts}, params={"top_k": 4})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["model"], found["layer"], found["site"]) == ("tiny", 2, "residual")
    autoencoder = load_autoencoder(served.registry / "run")
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model)
    for text, encoded in zip(texts, found["texts"], strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[2][0]
        wanted = autoencoder.magnitudes(hidden).topk(4, dim=1).values
        tokens = encoded["tokens"]
        assert [token["id"] for token in tokens] == ids[0].tolist()
        assert [text[token["start"] : token["end"]] for token in tokens] == text.split()
        got = [[feature["magnitude"] for feature in token["features"]] for token in tokens]
        assert np.allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-4)
    binary = http.post(
        "/v1/encoders/run/texts/encode", json={"texts": texts}, params={"top_k": 4}, headers={"accept": BINARY}
    )
    arrays = load(binary.content)
    assert arrays["splits"].tolist() == [0, 3, 4, 8]
    assert arrays["magnitudes"].shape == (8, 4)


def test_encoders_are_listed_with_what_is_known_of_them(http: httpx.Client, served: Served):
    listed = {encoder["id"]: encoder for encoder in http.get("/v1/encoders").json()["encoders"]}
    assert listed.keys() >= {"bae", "relu", "run", "cut"}
    assert listed["bae"]["status"] == "ready"
    assert (listed["bae"]["d_in"], listed["bae"]["d_latent"], listed["bae"]["binary"]) == (D, F, True)
    assert listed["relu"]["binary"] is False
    assert listed["run"]["origin"] == {"model": "tiny", "layer": 2, "site": "residual", "position": "all"}
    assert listed["run"]["measures"] == {"fvu_val": 0.25, "entropy_bits": 9.5}
    assert listed["cut"]["status"] == "broken"
    assert str(served.registry) not in listed["cut"]["reason"]
    one = http.get("/v1/encoders/bae").json()
    assert one == listed["bae"]
    assert one["limits"]["max_rows"] == served.config.limits.max_rows


def test_small_requests_at_once_get_their_own_rows(http: httpx.Client, bae):
    """Requests that are computed together must not be mixed up."""
    from concurrent.futures import ThreadPoolExecutor

    parts = [np.random.default_rng(i).normal(size=(1 + i % 5, D)).astype(np.float32) for i in range(48)]

    def ask(part: np.ndarray) -> np.ndarray:
        return post(http, "/v1/encoders/bae/encode", {"x": part}, "safetensors")["code"]

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, parts))
    for part, code in zip(parts, found, strict=True):
        assert np.array_equal(code, np.packbits(bae.encode(torch.from_numpy(part)).numpy().astype(bool), axis=1))
