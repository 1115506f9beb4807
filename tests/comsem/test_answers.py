"""Answers as real servers give them: each kind is read, and what is none is never taken for one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.comsem.answers import read_decision, read_explanation
from bae_ray.comsem.completions import Answer
from tests.comsem.scripted_answers import THOUGHT, answer, in_all_forms


def told(text: str, finish: str = "stop", **message: Any) -> tuple[bool, str]:
    decision = read_decision(answer(text, finish, **message))
    return decision.yes, decision.problem


@pytest.mark.parametrize("word", ["Yes", "No"])
@pytest.mark.parametrize("form", in_all_forms(""))
def test_every_form_of_a_right_answer_is_read(form: str, word: str):
    content, fields = in_all_forms(word)[form]
    assert told(content, **fields) == (word == "Yes", "")


@pytest.mark.parametrize("text", ["No, that is a verb.", "No, it does not.", "- No", "No. It is a noun."])
def test_a_no_with_its_reason(text: str):
    assert told(text) == (False, "")


@pytest.mark.parametrize(
    "text",
    ["", "   ", "Perhaps", "Yes and no", "No. Yes!", "yesterday", "Nothing", "{}", "\0", "42", "<think>Yes, I", "Yes?",
     "No puedo ayudar con esa solicitud.", "No problem! Here is what I think: it fits.", "No one can tell from this.",
     "No-", "No-one can tell", "No...", "No\u2026", "No worries!", "Yes! I'd be happy to help.", "No, gracias.",
     "No. No puedo ayudar con eso.", "Yes, so the question is whether", "No! Please rephrase.", "Yes, of course!",
     "Yes. What is the token?", "No es posible", "Yes/No", "Yes or No?", "No idea.", "No comment.", "Okay, so Yes",
     "No. 5 is alive", '{"a": "Yes", "b": "No"}', '{"answer": "Yes", "answer": "No"}', '{"answer": "No problem!"}',
     '{"answer": "Yes"', "[THINK]Yes", "<|channel|>analysis<|message|>Yes", "analysisYes, it may",
     f"{THOUGHT}</think>", "<think>no</think>"],
)  # fmt: skip
def test_what_is_neither_is_unreadable(text: str):
    assert told(text) == (False, "unreadable")


@pytest.mark.parametrize("text", ["Yes, so the question is whether", "Yes, because the", "No one", "No, it", "No,",
                                  "Yes because it", "Yes. The token", "Yes\n\nHmm, wait", "Okay",
                                  '{"answer": "Yes'])  # fmt: skip
def test_an_answer_that_is_cut_off_is_none(text: str):
    assert told(text, "length") == (False, "unreadable")


@pytest.mark.parametrize("text", ["Yes", "Yes.", "**Yes**\n\nThe token", "Yes\n\n\n", "Answer: Yes"])
def test_a_word_that_stands_alone_is_whole_whatever_was_cut_off_after_it(text: str):
    assert told(text, "length") == (True, "")


@pytest.mark.parametrize(
    "given_answer",
    [
        answer("I'm sorry, but I can't help with that."),
        answer("I cannot judge this."),
        answer("As an AI, I do not know."),
        answer("", refusal="policy"),
        answer("", finish="content_filter"),
        answer([{"type": "refusal", "refusal": "policy"}]),
        answer(f"<think>{THOUGHT}</think>I'm sorry, but I can't help with that."),
    ],
)
def test_refusals_are_told_apart(given_answer: Answer):
    assert read_decision(given_answer)[0::2] == (False, "refusal")
    assert read_explanation(given_answer) == ("", "refusal")


REFUSALS = [
    "I can't help with that.", "I cannot assist with this request.", "sorry",
    "as a language model I'm not able to determine this.", "as an AI I don't have opinions.",
    "it is impossible to tell from the context.", "this is not something I can help with.",
    "the user wants something harmful; I must decline.", "this is inappropriate content.",
    "that is against my guidelines.", "as a large language model, it is not possible for me to say.",
    "the token names a thing, but I am unable to judge this.", "it cannot be determined.",
    "it can\u2019t be determined.",
    "this is a sensitive topic, and I won't comply.", "the text is about violence. I'm sorry, I have to stop.",
    "there is no way to know. As an AI, I only see text.",
]  # fmt: skip
OPEN = [
    "it depends.", "it is a pleasure to help you!", "there is no problem! Here is my take.", "it is hard to say.",
    "it could be read either way.", "the context is unclear.", "there is not enough context.",
    "the text does not give enough information.", "it really depends on the context.", "it's difficult to tell.",
    "that depends on what is meant.", "it is my pleasure.",
]  # fmt: skip
REASONS = [
    "the token cannot be a number.", "it can't be anything else.", "the token 'cannot' is a modal verb.",
    'the token "depends" is a verb.', "GPT is described as a language model.", "the token names a decline in prices.",
    "it is not something related to food.", "this refers to guidelines for building.", "it cannot describe a verb.",
    "the word pleasure names a feeling.", "the token 'unclear' is an adjective.", "the token is a problem of algebra.",
    "it is a noun, not a verb. The wider context is unclear.", "the text is hard, but it names a city.",
    "the token `unable to tell` is a phrase.", "the token isn't a verb; it's 'decline', a noun.",
]  # fmt: skip


@pytest.mark.parametrize("word", ["Yes", "No"])
@pytest.mark.parametrize("between", [", ", ". ", ": ", " - ", ".\n\n"])
def test_what_follows_the_word_may_take_it_back(word: str, between: str):
    """The word is none where the sentence refuses or leaves it open, and stays one where it gives a reason."""
    told_of = {text: told(f"{word}{between}{text}") for text in REFUSALS + OPEN + REASONS}
    assert told_of == (
        dict.fromkeys(REFUSALS, (False, "refusal"))
        | dict.fromkeys(OPEN, (False, "unreadable"))
        | dict.fromkeys(REASONS, (word == "Yes", ""))
    )


@pytest.mark.parametrize("text", REFUSALS + OPEN)
@pytest.mark.parametrize("form", ['{{"answer": "No, {}"}}', "Answer: No, {}", "**Yes** because {}"])
def test_what_takes_a_word_back_does_so_in_every_form(form: str, text: str):
    said = told(form.format(text))
    assert not said[0]
    assert said[1] in ("refusal", "unreadable")


WORDS = st.sampled_from(
    [
        "problem",
        "one",
        "puedo",
        "puede",
        "es",
        "way",
        "idea",
        "hay",
        "wonder",
        "doubt",
        "matter",
        "tengo",
        "podemos",
        "sir",
        "thanks",
    ]
)


@given(st.sampled_from(["No", "Yes", "no", "YES"]), st.lists(WORDS, min_size=1, max_size=6), st.sampled_from(" -"))
@settings(max_examples=50, deadline=None)
def test_a_sentence_that_begins_with_the_word_is_no_decision(word: str, more: list[str], between: str):
    assert told(f"{word}{between}{' '.join(more)}.") == (False, "unreadable")


@given(st.text(max_size=60), st.sampled_from(["stop", "length", ""]))
@settings(max_examples=200, deadline=None)
def test_a_thought_says_nothing_of_the_answer(thought: str, finish: str):
    """Whatever was thought, and whatever the answer is, without a closing mark nothing is an answer."""
    assert told(f"<think>{thought.replace('/', '').replace('|', '')}", finish) == (False, "unreadable")
    clean = thought.replace("<", "").replace("[", "").replace("\u25c1", "")
    assert told(f"<think>{clean}</think>Yes", finish) == (True, "")
