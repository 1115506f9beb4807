"""The client against a real HTTP server whose answers are scripted."""

import asyncio
import logging
from pathlib import Path

import pytest

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import read_decision
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.scoring import gather_all
from tests.comsem.asking import Serve, ask, config, good, prompts
from tests.comsem.server import Reply


def test_requests_are_constrained_and_the_instructions_come_first(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply("Yes", p_yes=0.8))
    answers, usage = ask(config(server.url, judge_model="m"), tmp_path / "c", 3)
    assert [read_decision(answer).yes for answer in good(answers)] == [True] * 3
    assert [read_decision(answer).p_yes for answer in good(answers)] == pytest.approx([0.8] * 3)
    assert usage.sent == usage.answered == 3
    for body in server.bodies:
        assert body["structured_outputs"] == {"choice": ["Yes", "No"]}
        assert (body["logprobs"], body["temperature"], body["model"]) == (True, 0.0, "m")
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 1, "one prefix for all"


def test_a_rerun_is_free(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply("Yes", p_yes=0.8))
    first, _ = ask(config(server.url), tmp_path / "c", 5)
    again, usage = ask(config(server.url), tmp_path / "c", 5)
    assert again == first
    assert (usage.sent, usage.from_cache, usage.cost, len(server.bodies)) == (0, 5, 0.0, 5)


def test_another_model_or_server_is_another_question(serve: Serve, tmp_path: Path):
    server, other = serve(lambda *_: "Yes"), serve(lambda *_: "No")
    ask(config(server.url), tmp_path / "c")
    ask(config(server.url, judge_model="other"), tmp_path / "c")
    answers, _ = ask(config(other.url), tmp_path / "c")
    assert (len(server.bodies), good(answers)[0].text) == (2, "No")


def test_a_judge_that_moves_is_known_by_its_id(serve: Serve, tmp_path: Path):
    first, second = serve(lambda *_: "Yes"), serve(lambda *_: "No")
    ask(config(first.url, judge_id="mine"), tmp_path / "c")
    answers, usage = ask(config(second.url, judge_id="mine"), tmp_path / "c")
    assert (good(answers)[0].text, usage.sent, len(second.bodies)) == ("Yes", 0, 0)


def test_equal_questions_at_once_are_asked_once(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply("Yes", delay_s=0.05))

    async def run() -> list[Answer]:
        with AnswerCache(tmp_path / "c") as cache:
            async with Judge(config(server.url), cache) as judge:
                return await gather_all([judge.decide(prompts(1)[0]) for _ in range(20)])

    assert len(set(map(repr, asyncio.run(run())))) == 1
    assert len(server.bodies) == 1


def test_no_more_in_flight_than_allowed(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply("Yes", delay_s=0.03))
    good(ask(config(server.url, in_flight=4), tmp_path / "c", 24)[0])
    assert server.most_at_once == 4


def test_the_key_comes_from_the_environment(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    server = serve(lambda *_: "Yes")
    served = server.serve
    monkeypatch.setattr(
        server, "serve", lambda handler: (seen.append(handler.headers["authorization"]), served(handler))
    )
    monkeypatch.setenv("MY_KEY", "sk-secret")
    good(ask(config(server.url, judge_key="MY_KEY"), tmp_path / "c")[0])
    assert seen == ["Bearer sk-secret"]
    assert b"sk-secret" not in (tmp_path / "c").read_bytes()


def test_further_explanations_are_sampled(serve: Serve, tmp_path: Path):
    server = serve(lambda body, _: f"phrase {body.get('seed', 0)}")

    async def run() -> list[Answer]:
        with AnswerCache(tmp_path / "c") as cache:
            async with Judge(config(server.url), cache) as judge:
                return await gather_all([judge.explain(prompts(1)[0], number) for number in range(3)])

    assert [answer.text for answer in asyncio.run(run())] == ["phrase 0", "phrase 1", "phrase 2"]
    assert sorted(body["temperature"] for body in server.bodies) == [0.0, 1.0, 1.0]


def test_a_judge_that_thinks_gets_more_tokens(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: "Yes")
    good(ask(config(server.url, reasoning=1000), tmp_path / "c")[0])
    good(ask(config(server.url, reasoning=1000), tmp_path / "c", explain=True)[0])
    good(ask(config(server.url), tmp_path / "c")[0])
    assert [body["max_tokens"] for body in server.bodies] == [1008, 1064, 8]


def test_libraries_do_not_log_every_request(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    with caplog.at_level(logging.INFO):
        good(ask(config(serve(lambda *_: "Yes").url), tmp_path / "c", 3)[0])
    assert caplog.messages == []
