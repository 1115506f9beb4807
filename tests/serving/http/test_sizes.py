"""How large answers are is known before they are made, and what requests hold is counted."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.compression import compress
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.compute.operations import compute
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import bodies, responses, sizes
from bae_ray.serving.http.limits import HeldMemory, Load
from bae_ray.serving.http.media_types import JSON, SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.responses import nested, ragged, write
from bae_ray.serving.monitoring.counts import Metrics
from bae_ray.serving.registry.entry import Entry
from tests.memory import MB, at_most
from tests.serving.support import LIMITS, D, F

bae = build_autoencoder(BAEConfig(d_in=D, d_latent=F))
bae.prior.fill_(0.5)
entry = Entry("bae", Path(), "1", bae.config, "", 1.0, None, {})


@pytest.mark.parametrize("name", ["pack", "magnitudes", "top_k", "decode", "decode_packed"])
def test_what_is_planned_is_what_is_computed(name: Any):
    operation = Operation(name, 3 if name == "top_k" else 0)
    rows = {"decode": np.zeros((5, F), np.float32), "decode_packed": np.zeros((5, 6), np.uint8)}
    made = compute(bae, operation, [rows.get(name, np.zeros((5, D), np.float32))])
    planned = sizes.planned(entry, operation, 5)
    assert {k: (v.dtype, v.shape) for k, v in planned.items()} == {k: (v.dtype, v.shape) for k, v in made.items()}


def test_a_plan_takes_no_memory():
    with at_most(MB):
        planned = sizes.planned(entry, Operation("magnitudes"), 10**9)
        assert sizes.held(planned) == 4 * F * 10**9
        with pytest.raises(Problem, match="more than"):
            sizes.check(sizes.written(planned, JSON, "base64"), LIMITS)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
@pytest.mark.parametrize(("media", "style"), [(JSON, "nested"), (JSON, "base64"), (SAFETENSORS, "nested")])
def test_what_is_written_is_never_more_than_was_said(dtype: str, media: Media, style: Literal["nested", "base64"]):
    """Of the longest numbers that there are."""
    long = np.float32(-1.1754943508222875e-38) if dtype == "float32" else np.iinfo(dtype).min or np.iinfo(dtype).max
    made = {"a": np.full((300, 7), long, dtype)}
    brackets = 2 * 300 + 200
    assert len(write(made, {"encoder": "e"}, media, style)) <= sizes.written(made, media, style) + brackets


def test_json_is_written_without_all_numbers_being_pythons_at_once():
    a = np.random.default_rng(0).normal(size=(4000, 500)).astype(np.float32)
    with at_most(3 * 25 * a.size):  # the text, its chunks, and not 32 bytes a number besides
        text = nested(a)
    assert np.array_equal(np.array(json.loads(text), np.float32), a)
    assert nested(np.empty((0, 3), np.float32)) == b"[]"
    assert json.loads(ragged(np.arange(3), np.array([0, 2, 2, 3]))) == [[0, 1], [], [2]]


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_indices_are_counted_before_they_are_listed(monkeypatch: pytest.MonkeyPatch, density: float):
    monkeypatch.setattr(responses, "UNPACKED_BYTES", 100)  # three pieces
    bits = np.random.default_rng(1).random((7, F)) < density
    code = np.packbits(bits, axis=1)
    assert sizes.listed(code)["indices"].shape == (bits.sum(),)
    body = responses.indices(code, F, {"encoder": "e"}, JSON, "nested").body
    assert json.loads(bytes(body))["indices"] == [row.nonzero()[0].tolist() for row in bits]


def test_lists_of_indices_take_no_more_than_the_codes_that_they_are():
    """2^22 indices of a byte each: as whole numbers of 8 bytes, with their rows, they took a hundred MB."""
    flat, splits = torch.zeros(1 << 22, dtype=torch.uint8), torch.tensor([0, 5, 1 << 22])
    with at_most(MB):
        code = bodies._packed(bodies._listed({"indices": flat, "splits": splits}, LIMITS), F, LIMITS)
    assert code.tolist() == [[128, 0, 0, 0, 0, 0]] * 2
    with at_most(MB), pytest.raises(Problem) as refused:  # 2^17 bytes of code for each of the 256 rows of "[]"
        bodies._packed([np.empty(0, np.int64)] * LIMITS.max_rows, 1 << 20, LIMITS)
    assert refused.value.code == "body_too_large"


def test_a_container_of_one_large_block_is_refused_by_its_header():
    """A block is decoded at once, and its size is its writer's choice."""
    wide = 1 << 13
    data = compress(torch.zeros(LIMITS.max_rows, wide), torch.zeros(wide), block_rows=LIMITS.max_rows)
    with at_most(MB), pytest.raises(Problem) as refused:
        bodies.container_of(data, SAFETENSORS, wide, LIMITS)
    assert refused.value.code == "answer_too_large"
    data = compress(torch.zeros(LIMITS.max_rows, wide), torch.zeros(wide), block_rows=64)
    assert bodies.container_of(data, SAFETENSORS, wide, LIMITS)[1] == LIMITS.max_rows


def test_what_requests_hold_is_counted_and_given_back():
    limits = LimitsConfig(max_body_bytes=1024, max_response_bytes=1024, max_inflight_bytes=10_000)
    load = Load(limits, Metrics("r"))
    first, second = HeldMemory(load), HeldMemory(load)
    first.take(6000)
    with pytest.raises(Problem) as refused:
        second.take(5000)
    assert refused.value.code == "overloaded"
    first.give_back(1000)
    second.take(5000)
    first.give_back()
    second.take(5000)
    assert (first.size, second.size) == (0, 10_000)


def test_limits_that_no_large_request_could_keep_are_refused():
    with pytest.raises(ValueError, match="would never be served"):
        LimitsConfig(max_body_bytes=1024, max_response_bytes=4096, max_inflight_bytes=8192)
