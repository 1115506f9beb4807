"""The OpenAPI description: committed as it is, and true of the service, as schemathesis finds."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from schemathesis import Case
from schemathesis.core.result import Ok
from schemathesis.openapi.checks import JsonSchemaError

from tests.serving.support import KEY, D, Served

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"
BINARY = "application/x-safetensors"
REFUSED = (400, 422)
"""Bytes that are not safetensors, and numbers that do not fit the encoder: OpenAPI cannot say either."""

schemathesis.openapi.media_type(
    BINARY,
    st.binary(max_size=64) | st.integers(1, 3).map(lambda n: save({"x": np.zeros((n, D), np.float32)})),
)


def test_the_committed_description_is_that_of_the_service(http: httpx.Client):
    served = http.get("/openapi.json").json()
    assert json.loads(FILE.read_text()) == served, (
        "the routes have changed: python -m bae_ray.serving.http.api > docs/openapi.json"
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
    checks = {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 413, *REFUSED]}}
    config = schemathesis.Config.from_dict({"checks": checks, "auth": {"openapi": {"key": {"bearer": KEY}}}})
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def check(schema: schemathesis.BaseSchema, examples: int, derandomize: bool) -> None:
    """So many requests to each route, the same each time if derandomized, under all checks of schemathesis."""
    checked = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=examples,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=SLOW,
        )
        @given(case=operation.as_strategy())
        def conforms(case: Case) -> None:
            case.call_and_validate()

        conforms()
        checked += 1
    assert checked == 17, "a route for each of the description"


def test_the_service_is_as_it_is_described(schema: schemathesis.BaseSchema):
    check(schema, 20, derandomize=True)


def test_events_are_as_they_are_described(schema: schemathesis.BaseSchema, http: httpx.Client):
    body = {"text": "w1 w2 w3", "add": [{"feature": 2, "strength": 4}], "max_new_tokens": 3}
    answer = http.post("/v1/encoders/run/texts/steer", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    operation = schema["/v1/encoders/{encoder_id}/texts/steer"]["POST"]
    operation.validate_response(answer)
    false = httpx.Response(200, headers=answer.headers, text="event: other\ndata: 1\n\n", request=answer.request)
    false.elapsed = answer.elapsed
    with pytest.raises(JsonSchemaError):
        operation.validate_response(false)


@pytest.mark.slow
def test_the_service_is_as_it_is_described_at_length(schema: schemathesis.BaseSchema):
    check(schema, 500, derandomize=False)
