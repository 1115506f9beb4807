"""What the judge's client does where requests fail: tries again, goes on with others, or ends the run."""

import json
import socket
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bae_ray.comsem.config import JudgeConfig
from bae_ray.errors import JudgeError, UnansweredError
from tests.comsem.asking import SYSTEM_REFUSED, Serve, ask, config, good
from tests.comsem.server import Reply, asked_of

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


NO_TEMPLATE = json.dumps({"object": "error", "message": "default chat template is no longer allowed, so you must give "
                          "a chat template if the tokenizer does not define one.", "code": 400})  # fmt: skip
TOO_LONG = json.dumps({"object": "error", "message": "The model's maximum context length is 256 tokens. However, you "
                       "requested 900 tokens.", "code": 400})  # fmt: skip


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
