"""The OpenAPI description: committed as it is, and true of the service, as schemathesis finds."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from schemathesis import Case

from tests.serving.support import KEY, D, Served

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"
BINARY = "application/x-safetensors"
REFUSED = 422
"""JSON of the right form whose numbers do not fit the encoder; OpenAPI cannot say an encoder's width."""

schemathesis.openapi.media_type(
    BINARY,
    st.binary(max_size=64) | st.integers(1, 3).map(lambda n: save({"x": np.zeros((n, D), np.float32)})),
)


def test_the_committed_description_is_that_of_the_service(http: httpx.Client):
    served = http.get("/openapi.json").json()
    assert json.loads(FILE.read_text()) == served, (
        "the routes have changed: python -m bae_ray.serving.api > docs/openapi.json"
    )


def test_every_problem_is_said(http: httpx.Client):
    described = http.get("/openapi.json").json()
    answers = described["paths"]["/v1/encoders/{encoder_id}/encode"]["post"]["responses"]
    assert answers.keys() >= {"200", "400", "401", "403", "404", "406", "408", "413", "415", "422", "429", "503", "504"}
    assert set(described["paths"]["/v1/encoders/{encoder_id}/encode"]["post"]["requestBody"]["content"]) == {
        "application/json", BINARY,
    }  # fmt: skip


@schemathesis.hook
def map_path_parameters(_context: object, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ids that exist, most of the time: an arbitrary one tests no more than that it is not found."""
    if parameters and (drawn := str(parameters.get("encoder_id", ""))) and len(drawn) % 4:
        parameters["encoder_id"] = ("bae", "relu", "run")[len(drawn) % 4 - 1]
    return parameters


@pytest.fixture(scope="session")
def schema(served: Served) -> schemathesis.BaseSchema:
    accepted = {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 413, REFUSED]}}
    config = schemathesis.Config.from_dict({"checks": accepted})
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


described = schemathesis.pytest.from_fixture("schema")
FAST = settings(
    max_examples=6, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@described.parametrize()
@FAST
def test_the_service_is_as_it_is_described(case: Case):
    case.call_and_validate(headers={"authorization": f"Bearer {KEY}"})


@pytest.mark.slow
@described.parametrize()
@settings(FAST, max_examples=300)
def test_the_service_is_as_it_is_described_at_length(case: Case):
    case.call_and_validate(headers={"authorization": f"Bearer {KEY}"})
