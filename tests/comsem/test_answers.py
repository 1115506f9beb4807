import json
import math

import pytest

from bae_ray.comsem.answers import Answer, read_decision, read_explanation


def answer(text: str, refusal: str = "", finish: str = "stop", first: dict[str, float] | None = None) -> Answer:
    return Answer(text, refusal, finish, first or {}, 10, 1, 0)


@pytest.mark.parametrize(
    "text", ["Yes", "yes", " YES.", '"Yes"', "**Yes**", "Yes, it does.", "<think>No?</think>\nYes"]
)
def test_yes(text: str):
    assert read_decision(answer(text))[0::2] == (True, "")


@pytest.mark.parametrize("text", ["No", "no.", "'No'", "No, that is a verb.", "- No"])
def test_no(text: str):
    assert read_decision(answer(text))[0::2] == (False, "")


@pytest.mark.parametrize(
    "text", ["", "   ", "Perhaps", "Yes and no", "No. Yes!", "yesterday", "Nothing", "{}", "\0", "42", "<think>Yes, I"]
)
def test_what_is_neither_is_unreadable(text: str):
    assert read_decision(answer(text))[0::2] == (False, "unreadable")


@pytest.mark.parametrize(
    "given",
    [
        answer("I'm sorry, but I can't help with that."),
        answer("I cannot judge this."),
        answer("As an AI, I do not know."),
        answer("", refusal="policy"),
        answer("", finish="content_filter"),
    ],
)
def test_refusals_are_told_apart(given: Answer):
    assert read_decision(given)[0::2] == (False, "refusal")
    assert read_explanation(given) == ("", "refusal")


def test_probabilities_are_of_yes_against_no_in_all_spellings():
    first = {"Yes": math.log(0.3), " yes": math.log(0.1), "No": math.log(0.2), "Maybe": math.log(0.4)}
    assert read_decision(answer("No", first=first)).p_yes == pytest.approx(0.4 / 0.6)
    assert math.isnan(read_decision(answer("No", first={"Maybe": -0.1})).p_yes)
    assert math.isnan(read_decision(answer("No")).p_yes)


def test_calibrated_decisions_are_by_probability():
    first = {"Yes": math.log(0.3), "No": math.log(0.7)}
    assert not read_decision(answer("No", first=first)).yes
    assert read_decision(answer("No", first=first), threshold=0.2).yes
    assert not read_decision(answer("Yes", first=first), threshold=0.4).yes
    assert read_decision(answer("Yes"), threshold=0.9).yes, "without probabilities the word counts"


def test_calibrated_decisions_drop_no_refusal():
    """The two words' probabilities are the tail of what else would be said."""
    tail = {"I": -0.01, "Yes": -12.0, "No": -14.0}
    refused = answer("I'm sorry, I can't judge that.", first=tail)
    assert read_decision(refused, threshold=0.5)[0::2] == (False, "refusal")
    assert math.isnan(read_decision(refused).p_yes)
    assert read_decision(answer("Hmm", first=tail), threshold=0.5)[0::2] == (False, "unreadable")
    policy = answer("Yes", refusal="policy", first={"Yes": -0.1})
    assert read_decision(policy, threshold=0.5)[0::2] == (False, "refusal")


def test_a_thought_that_is_cut_off_is_no_explanation():
    assert read_explanation(answer("<think>\nOkay, the user wants")) == ("", "unreadable")


@pytest.mark.parametrize("phrase", ["sorry as an apology", '"Sorry" and other apologies'])
def test_a_phrase_about_apologies_is_no_refusal(phrase: str):
    assert read_explanation(answer(phrase)).problem == ""


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("plural nouns", "plural nouns"),
        ('"Plural nouns."', "Plural nouns"),
        ("The commonality is: past tense verbs\n\nBecause ...", "past tense verbs"),
        ("\n\nIn common: “names of months”", "names of months"),
        ("<think>hm\nhm</think>\ncolours", "colours"),
        ("-ing verbs", "-ing verbs"),
        ("日付", "日付"),
    ],
)
def test_explanations_are_the_phrase(text: str, phrase: str):
    assert read_explanation(answer(text)) == (phrase, "")


@pytest.mark.parametrize("text", ["", "...", '""', "x" * 300])
def test_no_phrase_is_unreadable(text: str):
    assert read_explanation(answer(text)) == ("", "unreadable")


@pytest.mark.parametrize(
    "body",
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
def test_bodies_that_are_no_chat_completion_are_refused(body: object):
    with pytest.raises(ValueError, match="no chat completion"):
        Answer.of_body(body)


def test_half_a_character_does_not_get_into_files():
    """JSON can hold one: servers that cut texts by UTF-16 send it."""
    answer = Answer.of_body(json.loads('{"choices": [{"message": {"content": "sad \\ud83d"}}]}'))
    assert read_explanation(answer).text == "sad ?"
    assert answer.text.encode() == b"sad ?"


def test_the_least_that_servers_send_is_enough():
    assert Answer.of_body({"choices": [{"message": {"content": "Yes"}}]}) == ("Yes", "", "", {}, 0, 0, 0)
    assert Answer.of_body({"choices": [{"message": {"content": None, "refusal": "no"}}], "usage": None}).refusal == "no"
