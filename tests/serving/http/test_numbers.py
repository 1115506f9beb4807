"""Numbers at the edges over HTTP: containers by reference, encoders of other types, scales and without firing rates."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from bae_ray import load_autoencoder
from bae_ray.compression import compress_activations
from tests.serving.support import D, Served, make_encoder, until

x = np.random.default_rng(0).normal(size=(7, D)).astype(np.float32) * 3


def test_a_container_of_other_rates_is_refused(http: httpx.Client, served: Served):
    """Of the same autoencoder, trained to the end after the codes were made, say."""
    bae = load_autoencoder(served.registry / "bae")
    data = compress_activations(bae, torch.from_numpy(x))
    bae.prior.copy_(bae.prior.flip(0))
    other = compress_activations(bae, torch.from_numpy(x))
    for body, status in ((data, 200), (other, 422)):
        headers = {"content-type": "application/octet-stream"}
        answer = http.post("/v1/encoders/bae/decompress", content=body, headers=headers)
        assert answer.status_code == status
    assert answer.json()["code"] == "corrupt"


def test_one_vector_takes_few_bytes(http: httpx.Client):
    answer = http.post("/v1/encoders/bae/compress", json={"x": x[:1].tolist()}).json()
    assert answer["bytes"] < 60


def test_numbers_too_large_for_the_encoder_are_refused_and_take_no_other_request_with_them(
    http: httpx.Client, dropped: Path
):
    """Finite in float32, and beyond it in (x - mean) / scale W_enc."""
    make_encoder(dropped, change=lambda made: made.scale.fill_(1e-6))
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    bodies = [{"x": x[:1].tolist()}, {"x": [[1e35] * D]}] * 6
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: http.post("/v1/encoders/dropped/encode", json=body), bodies))
    assert [answer.status_code for answer in answers] == [200, 422] * 6
    assert {answer.json()["code"] for answer in answers[1::2]} == {"not_finite"}


def test_magnitudes_of_an_encoder_without_firing_rates_are_refused(http: httpx.Client, dropped: Path):
    make_encoder(dropped, change=lambda made: made.prior.zero_())
    path = "/v1/encoders/dropped"
    until(lambda: http.get(path).status_code == 200)
    assert http.get(path).json()["prior_bits"] is None
    assert http.get(f"{path}/features/1").json()["firing_rate"] is None
    body = {"x": x.tolist()}
    assert http.post(f"{path}/encode", json=body).status_code == 200
    for params in ({"format": "magnitudes"}, {"format": "indices", "top_k": 3}):
        answer = http.post(f"{path}/encode", json=body, params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "no_prior")
    threshold = {"scheme": "indices", "threshold": -0.5}
    assert http.post(f"{path}/compress", json=body, params=threshold).json()["code"] == "no_prior"
    back = http.post(f"{path}/decompress", json={"data": http.post(f"{path}/compress", json=body).json()["data"]})
    assert back.status_code == 200


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_encoders_saved_in_other_types_answer(http: httpx.Client, dropped: Path, dtype: torch.dtype):
    folder = dropped
    made = make_encoder(folder)
    weights = load_tensors(folder / "model.safetensors")
    save_tensors({name: t.to(dtype) if name != "b_dec" else t for name, t in weights.items()}, folder / "new")
    os.replace(folder / "new", folder / "model.safetensors")
    rounded = load_autoencoder(folder)
    assert rounded.W_enc.dtype == torch.float32
    assert torch.equal(rounded.W_enc, made.W_enc.to(dtype).float())
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    answer = http.post("/v1/encoders/dropped/encode", json={"x": x.tolist()}, params={"format": "magnitudes"})
    assert answer.status_code == 200
    assert np.allclose(answer.json()["magnitudes"], rounded.magnitudes(torch.from_numpy(x)), atol=1e-4)
