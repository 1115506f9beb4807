"""What a route answers with can be sent to the next as it came, or is refused where it would mean something else."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load

from bae_ray import load_autoencoder
from bae_ray.autoencoders import ReLUConfig, build_autoencoder
from tests.serving.http.test_problems import problem
from tests.serving.support import D, F, Served, until

JSON, BINARY = "application/json", "application/x-safetensors"
x = np.random.default_rng(5).normal(size=(6, D)).astype(np.float32) * 3
ways = pytest.mark.parametrize("way", ["nested", "base64", "safetensors"])


def passed_on(http: httpx.Client, encoder: str, first: str, then: str, body: Any, way: str, **params: Any):
    """The answer of `then` to the answer of `first`, byte for byte as it came."""
    path = f"/v1/encoders/{encoder}"
    accept = BINARY if way == "safetensors" else JSON
    arrays = {} if way == "safetensors" else {"arrays": way}
    given = http.post(f"{path}/{first}", json=body, params={**params, **arrays}, headers={"accept": accept})
    assert given.status_code == 200, given.text
    headers = {"content-type": accept, "accept": JSON}
    return http.post(f"{path}/{then}", content=given.content, headers=headers)


@ways
@pytest.mark.parametrize("form", ["packed", "indices"])
def test_codes_are_decoded_as_they_came(http: httpx.Client, served: Served, way: str, form: str):
    bae = load_autoencoder(served.registry / "bae")
    answer = passed_on(http, "bae", "encode", "decode", {"x": x.tolist()}, way, format=form)
    assert answer.status_code == 200, answer.text
    wanted = bae.decode(bae.encode(torch.from_numpy(x))).numpy()
    assert np.allclose(answer.json()["x"], wanted, rtol=1e-5, atol=1e-5)


@ways
@pytest.mark.parametrize("top_k", [None, 3, F])
def test_magnitudes_that_are_latents_are_decoded(http: httpx.Client, served: Served, way: str, top_k: int | None):
    relu = load_autoencoder(served.registry / "relu")
    params = {"format": "magnitudes", **({} if top_k is None else {"top_k": top_k})}
    answer = passed_on(http, "relu", "encode", "decode", {"x": x.tolist()}, way, **params)
    assert answer.status_code == 200, answer.text
    latents = relu.encode(torch.from_numpy(x)).numpy()
    least = np.sort(latents, axis=1)[:, -(top_k or F)][:, None]
    wanted = relu.decode(torch.from_numpy(np.where(latents >= least, latents, 0))).numpy()
    assert np.allclose(answer.json()["x"], wanted, rtol=1e-5, atol=1e-5)


@ways
def test_what_is_no_code_is_not_decoded_as_one(http: httpx.Client, way: str):
    """Of a binary encoder the largest magnitudes are rare bits, whether they fire or not."""
    for params in ({"format": "magnitudes"}, {"format": "indices", "top_k": 3}, {"format": "magnitudes", "top_k": 3}):
        answer = passed_on(http, "bae", "encode", "decode", {"x": x.tolist()}, way, **params)
        assert "packed" in problem(answer, 422, "invalid")["detail"]


@ways
def test_codes_of_another_encoder_are_refused(http: httpx.Client, way: str):
    """`run` has the widths of `bae`: only the answer itself says whose code it is."""
    params = {} if way == "safetensors" else {"arrays": way}
    accept = BINARY if way == "safetensors" else JSON
    given = http.post("/v1/encoders/run/encode", json={"x": x.tolist()}, params=params, headers={"accept": accept})
    answer = http.post("/v1/encoders/bae/decode", content=given.content, headers={"content-type": accept})
    assert "encoder" in problem(answer, 422, "invalid")["detail"]
    if way != "safetensors":
        code = {name: value for name, value in given.json().items() if name != "encoder"}
        assert http.post("/v1/encoders/bae/decode", json=code).status_code == 200


def test_standardised_magnitudes_are_no_latents(http: httpx.Client, dropped: Path):
    made = build_autoencoder(ReLUConfig(d_in=D, d_latent=F, standardize=True))
    made.save_pretrained(dropped)
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    body = {"x": x.tolist()}
    answer = passed_on(http, "dropped", "encode", "decode", body, "nested", format="magnitudes")
    assert "standardised" in problem(answer, 422, "invalid")["detail"]


def test_reconstructions_and_containers_are_taken_as_they_came(http: httpx.Client, served: Served):
    bae = load_autoencoder(served.registry / "bae")
    once = bae.decode(bae.encode(torch.from_numpy(x)))
    code = np.packbits(bae.encode(once).numpy().astype(bool), axis=1)
    packed = np.packbits(bae.encode(torch.from_numpy(x)).numpy().astype(bool), axis=1).tolist()
    again = passed_on(http, "bae", "decode", "encode", {"code": packed}, "nested")
    assert (np.array(again.json()["code"]) != code).mean() < 0.01  # its x is rounded on the way
    given = http.post("/v1/encoders/bae/compress", json={"x": x.tolist()})
    back = http.post("/v1/encoders/bae/decompress", content=given.content, headers={"content-type": JSON})
    assert np.allclose(back.json()["x"], once.numpy(), rtol=1e-5, atol=1e-5)
    given = http.post("/v1/encoders/bae/decompress", json={"data": given.json()["data"]}, params={"format": "packed"})
    back = http.post("/v1/encoders/bae/decode", content=given.content, headers={"content-type": JSON})
    assert np.allclose(back.json()["x"], once.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"code": None, "indices": [[1, 2]]}, 200, None),  # as a typed client writes what it does not set
        ({"indices": [[1]], "encoder": 7}, 422, "invalid"),
        ({"indices": [[1]], "format": "other"}, 422, "invalid"),
        ({"indices": [[1]], "d_latent": F + 1}, 422, "wrong_width"),
        ({"indices": [[1]], "version": "1"}, 422, "invalid"),
        ({"magnitudes": [[0.0] * F]}, 422, "invalid"),
        ({"encoder": "bae"}, 422, "invalid"),
    ],
)
def test_what_may_stand_beside_a_code(http: httpx.Client, body: dict, status: int, code: str | None):
    answer = http.post("/v1/encoders/bae/decode", json=body)
    if code is None:
        assert answer.status_code == status, answer.text
    else:
        problem(answer, status, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"magnitudes": [[1.0, 2.0]], "indices": [[0, F]]}, "invalid"),
        ({"magnitudes": [[1.0, 2.0]], "indices": [[-1, 0]]}, "invalid"),
        ({"magnitudes": [[1.0, 2.0]], "indices": [[1]]}, "invalid"),
        ({"magnitudes": [[1.0]], "indices": [[1]], "code": [[1]]}, "invalid"),
        ({"magnitudes": [[float("nan")] * F]}, "not_finite"),
        ({"magnitudes": [[1.0]]}, "wrong_width"),
    ],
)
def test_magnitudes_that_are_wrong(http: httpx.Client, body: dict, code: str):
    import json

    content, headers = json.dumps(body), {"content-type": JSON}
    problem(http.post("/v1/encoders/relu/decode", content=content, headers=headers), 422, code)


def test_metadata_of_other_programs_means_nothing_here(http: httpx.Client):
    from safetensors.numpy import save

    body = save({"code": np.zeros((1, -(-F // 8)), np.uint8)}, {"format": "pt", "encoder": "theirs", "top_k": "3"})
    answer = http.post("/v1/encoders/bae/decode", content=body, headers={"content-type": BINARY})
    assert load(answer.content)["x"].shape == (1, D)
