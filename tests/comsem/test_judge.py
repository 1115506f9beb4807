"""The client against a real HTTP server whose answers are scripted."""

import asyncio
import json
import logging
import math
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.answers import Answer, read_decision
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_prompts import Example, Message, judge_prompt
from bae_ray.comsem.scoring import gather_all
from bae_ray.comsem.usage import Usage
from bae_ray.errors import CostLimitError, InvalidInputError, JudgeError, UnansweredError, UnreadableFileError
from tests.comsem.server import JudgeServer, Reply, asked_of

Serve = Callable[..., JudgeServer]


def prompts(n: int) -> list[list[Message]]:
    return [judge_prompt(Example(f"w{i}", i, f"w{i} in a text", 0, 2), "a word") for i in range(n)]


def config(url: str, **changes: Any) -> JudgeConfig:
    return JudgeConfig(judge_url=url, backoff_s=0.01, timeout_s=20, **changes)


def ask(
    settings: JudgeConfig, cache: Path, n: int = 1, explain: bool = False
) -> tuple[list[Answer | Exception], Usage]:
    """Ask n different questions; errors stand in place of answers."""

    async def run() -> tuple[list[Answer | Exception], Usage]:
        with AnswerCache(cache) as opened:
            async with Judge(settings, opened) as judge:
                method = judge.explain if explain else judge.decide
                found = await asyncio.gather(*(method(prompt) for prompt in prompts(n)), return_exceptions=True)
                return found, judge.usage  # pyright: ignore[reportReturnType]

    return asyncio.run(run())


def good(answers: list[Answer | Exception]) -> list[Answer]:
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return answers  # pyright: ignore[reportReturnType]


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


FAULTS = {
    "server error": Reply(status=500, body='{"error": {"message": "boom"}}'),
    "bad gateway in HTML": Reply(status=502, body="<html>bad</html>", headers={"content-type": "text/html"}),
    "busy": Reply(status=503, body=""),
    "dropped connection": Reply(drop=True),
    "no JSON": Reply(body="Yes"),
    "half of a JSON": Reply(body='{"choices": [{"message": {"con'),
    "JSON of something else": Reply(body='{"choices": []}'),
    "an error with status 200": Reply(body='{"error": {"message": "overloaded"}}'),
    "empty": Reply(body=""),
    "text": Reply(body="hello", headers={"content-type": "text/plain"}),
    "too many requests": Reply(status=429, body='{"error": {"message": "slow down"}}', headers={"retry-after": "0"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_may_pass_is_tried_again(fault: Reply, serve: Serve, tmp_path: Path):
    server = serve(lambda _, times: fault if times < 3 else Reply("Yes"))
    answers, usage = ask(config(server.url), tmp_path / "c", 2)
    assert [answer.text for answer in good(answers)] == ["Yes", "Yes"]
    assert (usage.sent, usage.retried, usage.answered) == (6, 4, 2)


@pytest.mark.parametrize("fault", ["server error", "no JSON", "dropped connection"])
def test_attempts_are_bounded_and_others_go_on(fault: str, serve: Serve, tmp_path: Path):
    server = serve(lambda body, _: FAULTS[fault] if '"w0"' in body["messages"][1]["content"] else "Yes")
    answers, _ = ask(config(server.url, attempts=3), tmp_path / "c", 3)
    assert isinstance(answers[0], UnansweredError)
    assert "no answer in 3 attempts; the last problem:" in str(answers[0])
    assert len(good(answers[1:])) == 2
    assert max(server.asked.values()) == 3


def test_slow_answers_time_out(serve: Serve, tmp_path: Path):
    server = serve(lambda _, times: Reply(hold=True) if times == 1 else Reply("Yes"))
    settings = config(server.url).model_copy(update={"timeout_s": 0.3})
    answers, usage = ask(settings, tmp_path / "c")
    assert (good(answers)[0].text, usage.retried) == ("Yes", 1)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_all_requests(form: str, serve: Serve, tmp_path: Path):
    """After the first refusal nothing is sent before the time that the server named."""
    named: list[float] = []

    def script(_body: dict[str, Any], _times: int) -> Reply:
        if named:
            return Reply("Yes")
        wait = 1.0 if form == "seconds" else 2.0
        header = "1" if form == "seconds" else formatdate(time.time() + wait, usegmt=True)
        named.append(time.monotonic())
        return Reply(status=429, body="{}", headers={"retry-after": header})

    server = serve(script)
    good(ask(config(server.url, in_flight=1), tmp_path / "c", 4)[0])
    later = [moment for moment in server.times if moment > named[0]]
    assert len(later) == 4
    assert min(later) - named[0] >= 0.9


def test_a_wait_of_hours_ends_the_run(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply(status=429, body="{}", headers={"retry-after": "7200"}))
    answers, _ = ask(config(server.url), tmp_path / "c", 1)
    assert isinstance(answers[0], JudgeError)
    assert "asks to wait 7200 s" in str(answers[0])


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, '{"error": {"message": "bad key"}}', "--judge-key"),
        (404, '{"error": {"message": "no such model"}}', "--judge-model"),
        (429, '{"error": {"message": "pay", "code": "insufficient_quota"}}', "no funds"),
    ],
)
def test_what_cannot_pass_ends_the_run_at_once(status: int, body: str, remedy: str, serve: Serve, tmp_path: Path):
    server = serve(lambda *_: Reply(status=status, body=body))
    answers, _ = ask(config(server.url, in_flight=1), tmp_path / "c", 5)
    assert all(isinstance(answer, JudgeError) for answer in answers)
    assert remedy in str(answers[0])
    assert len(server.bodies) == 1, "nobody asks again"


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    answers, usage = ask(config(url, attempts=2, in_flight=4), tmp_path / "c", 100)
    assert all(isinstance(answer, JudgeError) for answer in answers)
    assert "See whether the server is up" in str(answers[-1])
    assert usage.sent <= 2 * 20, "it is not asked a hundred times"


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


def test_the_cost_limit_is_never_passed(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: "Yes")
    price = {"input_price": 1000.0, "output_price": 1000.0}
    one = ask(config(serve(lambda *_: "Yes").url, **price), tmp_path / "one")[1].cost
    assert one > 0.1
    limit = 12.0
    answers, usage = ask(config(server.url, **price, max_cost=limit, in_flight=3), tmp_path / "c", 60)
    stopped = [answer for answer in answers if isinstance(answer, CostLimitError)]
    assert stopped
    assert "raise the limit" in str(stopped[0])
    assert 0 < usage.cost <= limit
    assert usage.answered == 60 - len(stopped)
    _, more = ask(config(server.url, **price, max_cost=limit, in_flight=3), tmp_path / "c", 60)
    assert (more.answered, more.from_cache) == (0, usage.answered), "what earlier runs spent counts"
    raised, rest = ask(config(server.url, **price, max_cost=100.0), tmp_path / "c", 60)
    assert len(good(raised)) == 60
    assert rest.answered == len(stopped)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("reply", [
    Reply(body='{"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}'),
    Reply("Yes", hold=True),
    Reply(body="no JSON"),
])  # fmt: skip
def test_a_server_that_does_not_say_what_it_took_cannot_pass_the_limit(reply: Reply, serve: Serve, tmp_path: Path):
    """No usage, no answer in time, an answer that is none: each may have been billed."""
    server = serve(lambda *_: reply)
    price = {"input_price": 1000.0, "output_price": 1000.0}
    settings = config(server.url, **price, max_cost=6.0, in_flight=2, attempts=1).model_copy(update={"timeout_s": 0.5})
    answers, usage = ask(settings, tmp_path / "c", 30)
    assert any(isinstance(answer, CostLimitError) for answer in answers)
    assert 0 < len(server.bodies) < 12
    assert usage.estimated == usage.sent == len(server.bodies)
    assert 0 < usage.cost <= 6.0, "the run's cost says so, too"
    asked = len(server.bodies)
    again, _ = ask(settings, tmp_path / "c", 30)
    assert any(isinstance(answer, CostLimitError) for answer in again)
    assert len(server.bodies) == asked, "what may have been billed counts in later runs"


def test_a_limit_needs_a_price():
    with pytest.raises(ValueError, match="no price"):
        JudgeConfig(max_cost=1.0)


def test_a_cache_is_used_by_one_process_at_a_time(tmp_path: Path):
    with AnswerCache(tmp_path / "c"), pytest.raises(InvalidInputError, match="in use by another"):
        AnswerCache(tmp_path / "c").__enter__()
    with AnswerCache(tmp_path / "c"):
        pass


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path):
    (tmp_path / "c").write_text("not a database, but somebody's notes " * 100)
    with pytest.raises(UnreadableFileError, match="not a cache of a judge's answers"):
        AnswerCache(tmp_path / "c").__enter__()
    assert (tmp_path / "c").read_text().startswith("not a database")


def test_a_folder_is_no_cache(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="is a folder"):
        AnswerCache(tmp_path).__enter__()


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


def test_further_explanations_are_sampled(serve: Serve, tmp_path: Path):
    server = serve(lambda body, _: f"phrase {body.get('seed', 0)}")

    async def run() -> list[Answer]:
        with AnswerCache(tmp_path / "c") as cache:
            async with Judge(config(server.url), cache) as judge:
                return await gather_all([judge.explain(prompts(1)[0], number) for number in range(3)])

    assert [answer.text for answer in asyncio.run(run())] == ["phrase 0", "phrase 1", "phrase 2"]
    assert sorted(body["temperature"] for body in server.bodies) == [0.0, 1.0, 1.0]


SYSTEM_REFUSED = json.dumps({"object": "error", "message": "System role not supported", "code": 400})
NO_TEMPLATE = json.dumps({"object": "error", "message": "default chat template is no longer allowed, so you must give "
                          "a chat template if the tokenizer does not define one.", "code": 400})  # fmt: skip
TOO_LONG = json.dumps({"object": "error", "message": "The model's maximum context length is 256 tokens. However, you "
                       "requested 900 tokens.", "code": 400})  # fmt: skip


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


@pytest.mark.parametrize(
    ("body", "remedy", "most"),
    [(NO_TEMPLATE, "--chat-template", 1), (TOO_LONG, "--max-model-len", 3), (SYSTEM_REFUSED, "--chat-template", 6),
     ('{"error": {"message": "No such thing"}}', "server's message", 12)],
)  # fmt: skip
def test_a_server_that_takes_no_question_is_told_at_the_first_ones(
    body: str, remedy: str, most: int, serve: Serve, tmp_path: Path
):
    server = serve(lambda *_: Reply(status=400, body=body))
    answers, _ = ask(config(server.url), tmp_path / "c", 100)
    assert all(isinstance(answer, JudgeError) for answer in answers)
    said = json.loads(body)
    assert (said.get("message") or said["error"]["message"])[:40] in str(answers[-1])
    assert "does not take the judge's questions" in str(answers[-1])
    assert remedy in str(answers[-1])
    assert 0 < len(server.bodies) <= most


def test_one_question_that_is_too_long_is_failed_and_says_what_to_do(serve: Serve, tmp_path: Path):
    def script(body: dict[str, Any], _times: int) -> Reply:
        return Reply(status=400, body=TOO_LONG) if '"w2"' in asked_of(body) else Reply("Yes")

    answers, _ = ask(config(serve(script).url), tmp_path / "c", 4)
    assert type(answers[2]) is UnansweredError
    assert "maximum context length is 256 tokens" in str(answers[2])
    assert "--examples.context-tokens" in str(answers[2])
    assert len(good(answers[:2] + answers[3:])) == 3


def test_a_judge_that_thinks_gets_more_tokens(serve: Serve, tmp_path: Path):
    server = serve(lambda *_: "Yes")
    good(ask(config(server.url, reasoning=1000), tmp_path / "c")[0])
    good(ask(config(server.url, reasoning=1000), tmp_path / "c", explain=True)[0])
    good(ask(config(server.url), tmp_path / "c")[0])
    assert [body["max_tokens"] for body in server.bodies] == [1008, 1064, 8]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_where_nothing_can_answer_is_said_within_three_seconds(host: str, tmp_path: Path):
    """Of the judge's client; the command says so before it imports what asking takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://{host}:{free.getsockname()[1]}/v1"
    started = time.monotonic()
    answers, usage = ask(JudgeConfig(judge_url=url), tmp_path / "c", 100)
    assert time.monotonic() - started < 3
    assert all(isinstance(answer, JudgeError) for answer in answers)
    assert f"{url} cannot be reached (" in str(answers[0])
    assert usage.sent == 0


def test_libraries_do_not_log_every_request(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    with caplog.at_level(logging.INFO):
        good(ask(config(serve(lambda *_: "Yes").url), tmp_path / "c", 3)[0])
    assert caplog.messages == []
