"""The JSON of a chat completion, and the record that the cache keeps of it."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.comsem.answers import read_decision, read_explanation
from bae_ray.comsem.completions import Answer
from tests.comsem.scripted_answers import answer, in_all_forms, token


def test_answers_that_earlier_versions_kept_are_read():
    """They kept what the first token might have been, and no more."""
    kept = {"text": " Yes", "refusal": "", "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 1,
            "cached_tokens": 0}  # fmt: skip

    def p_yes(first: dict[str, float], **changes: Any) -> float:
        return read_decision(Answer.of_record({**kept, "first_token": first, **changes})).p_yes

    both = {"Yes": math.log(0.6), "No": math.log(0.2)}
    assert p_yes(both) == pytest.approx(0.75)
    assert math.isnan(p_yes({}))
    assert math.isnan(p_yes({"Yes": math.log(0.01), "No": math.log(0.1)})), "one of a token listed twice was lost"
    assert math.isnan(p_yes(both, text="<think>hm</think>Yes")), "the first token is the thought's"
    assert read_decision(Answer.of_record({**kept, "first_token": both, "text": "No problem!"})).problem == "unreadable"


@given(st.sampled_from(sorted(in_all_forms("Yes"))), st.floats(0.1, 0.8))
@settings(max_examples=30, deadline=None)
def test_an_answer_survives_its_record(form: str, p: float):
    content, fields = in_all_forms("Yes")[form]
    said = answer(content, tokens=[token("Yes", Yes=p, No=0.15)], **fields)
    assert Answer.of_record(json.loads(json.dumps(said._asdict()))) == said


@pytest.mark.parametrize(
    "given_body",
    [
        None, 3, "text", [], {}, {"choices": []}, {"choices": [None]}, {"choices": [{}]}, {"choices": {"0": 1}},
        {"choices": [{"message": None}]}, {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": [{}]}]}}]},
        {"choices": [{"message": {"content": "Yes"}}], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"message": {"content": "Yes"}}], "usage": {"prompt_tokens": math.inf}},
        {"choices": [{"message": {"content": "Yes"}}], "usage": {"completion_tokens": 10**20}},
        {"choices": [{"message": {"content": "Yes"}}], "usage": {"completion_tokens": -1}},
        {"error": {"message": "overloaded"}},
    ],
)  # fmt: skip
def test_bodies_that_are_no_chat_completion_are_refused(given_body: object):
    with pytest.raises(ValueError, match="no chat completion"):
        Answer.of_body(given_body)


def test_half_a_character_does_not_get_into_files():
    """JSON can hold one: servers that cut texts by UTF-16 send it."""
    said = Answer.of_body(json.loads('{"choices": [{"message": {"content": "sad \\ud83d"}}]}'))
    assert read_explanation(said).text == "sad ?"
    assert said.text.encode() == b"sad ?"


def test_the_least_that_servers_send_is_enough():
    assert Answer.of_body({"choices": [{"message": {"content": "Yes"}}]}) == Answer("Yes", "", "", [], 0, 0, 0)
    assert Answer.of_body({"choices": [{"message": {"content": None, "refusal": "no"}}], "usage": None}).refusal == "no"
