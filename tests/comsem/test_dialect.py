"""Parameters that a judge's server does not take are left out, once and for all."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import read_decision
from bae_ray.comsem.judge import Judge
from bae_ray.errors import UnansweredError
from tests.comsem.asking import SYSTEM_REFUSED, Serve, ask, config, good, prompts
from tests.comsem.server import Reply

REFUSED_PARAMETERS = {
    "structured_outputs": "Unknown parameter: 'structured_outputs'.",
    "top_logprobs": "logprobs are not supported with this model",
    "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "temperature": "'temperature' does not support 0.0 with this model",
}


@pytest.mark.parametrize("parameter", REFUSED_PARAMETERS)
def test_parameters_that_a_server_does_not_take_are_left_out(parameter: str, serve: Serve, tmp_path: Path):
    def script(body: dict[str, Any], _times: int) -> Reply:
        if parameter in body:
            return Reply(status=400, body=json.dumps({"error": {"message": REFUSED_PARAMETERS[parameter]}}))
        return Reply("Yes", p_yes=0.7)

    server = serve(script)
    answers, _ = ask(config(server.url, in_flight=1), tmp_path / "c", 4)
    assert [answer.text for answer in good(answers)] == ["Yes"] * 4
    assert len(server.bodies) == 5, "it is found out once"
    assert ("max_completion_tokens" in server.bodies[-1]) == (parameter == "max_tokens")
    assert math.isnan(read_decision(good(answers)[0]).p_yes) == (parameter == "top_logprobs")
    assert ask(config(server.url), tmp_path / "c", 4)[1].sent == 0, "the rerun knows, and is free"


def test_one_bad_request_does_not_change_how_others_are_asked(serve: Serve, tmp_path: Path):
    def script(body: dict[str, Any], _times: int) -> Reply:
        if '"w0"' in body["messages"][1]["content"]:
            return Reply(status=400, body='{"error": {"message": "the context is too long"}}')
        return Reply("Yes", p_yes=0.7)

    server = serve(script)
    answers, _ = ask(config(server.url, in_flight=1), tmp_path / "c", 3)
    assert isinstance(answers[0], UnansweredError)
    assert "the context is too long" in str(answers[0])
    for body in server.bodies[-2:]:
        assert {"structured_outputs", "top_logprobs"} <= body.keys()


def test_samples_of_a_server_without_seeds_are_told_apart(serve: Serve, tmp_path: Path):
    """All three are asked once, and a rerun finds them as they were."""

    def script(body: dict[str, Any], times: int) -> Reply | str:
        if "seed" in body:
            return Reply(status=400, body='{"error": {"message": "seed is not supported"}}')
        return f"phrase {len(server.bodies)}"

    server = serve(script)

    async def run() -> list[str]:
        with AnswerCache(tmp_path / "c") as cache:
            async with Judge(config(server.url), cache) as judge:
                return [(await judge.explain(prompts(1)[0], number)).text for number in range(3)]

    first = asyncio.run(run())
    assert len(set(first)) == 3
    sent = len(server.bodies)
    assert asyncio.run(run()) == first
    assert len(server.bodies) == sent


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_model_without_a_system_role_gets_its_instructions_in_the_users_turn(
    status: int, serve: Serve, tmp_path: Path
):
    def script(body: dict[str, Any], _times: int) -> Reply:
        if body["messages"][0]["role"] == "system":
            return Reply(status=status, body=SYSTEM_REFUSED)
        return Reply("Yes", p_yes=0.8)

    server = serve(script)
    answers, _ = ask(config(server.url), tmp_path / "c", 20)
    assert [read_decision(answer).p_yes for answer in good(answers)] == pytest.approx([0.8] * 20)
    assert len(server.bodies) == 21, "it is found out once, before the others are sent"
    for body, prompt in zip(server.bodies[1:2], prompts(1), strict=True):
        (message,) = body["messages"]
        assert message["role"] == "user"
        assert message["content"].startswith(prompt[0]["content"])
        assert message["content"].endswith(prompt[1]["content"])
        assert "top_logprobs" in body, "nothing else is left out"
    assert ask(config(server.url), tmp_path / "c", 20)[1].sent == 0, "the rerun knows, and is free"
