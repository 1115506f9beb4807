"""The phrase in an answer that explains a feature."""

from typing import Any

import pytest

from bae_ray.comsem.answers import MAX_SHOWN, read_explanation, shown
from bae_ray.comsem.completions import Answer
from tests.comsem.scripted_answers import HARMONY, HARMONY_STRIPPED, answer


@pytest.mark.parametrize("said", [
    answer("<think>\nOkay, the user wants"), answer("Okay, so I need to find what they share. The first", "length"),
    answer("Okay, so I need to find it.\n\nThe first", "length"), answer("[THINK]Okay"),
    answer("<|channel|>analysis<|message|>Okay"), answer("analysisWe are asked"), answer("", reasoning="Okay"),
])  # fmt: skip
def test_a_thought_that_is_cut_off_is_no_explanation(said: Answer):
    assert read_explanation(said) == ("", "unreadable")


@pytest.mark.parametrize("phrase", ["sorry as an apology", '"Sorry" and other apologies', "analysis of data"])
def test_a_phrase_about_apologies_is_no_refusal(phrase: str):
    assert read_explanation(answer(phrase)).problem == ""


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("plural nouns", "plural nouns"),
        ('"Plural nouns."', "Plural nouns"),
        ("The commonality is: past tense verbs\n\nBecause ...", "past tense verbs"),
        ("\n\nIn common: “names of months”", "names of months"),
        ("**In common:** names of months", "names of months"),
        ("<think>hm\nhm</think>\ncolours", "colours"),
        ("hm\nhm\n</think>\n\ncolours", "colours"),
        ("[THINK]hm[/THINK]colours", "colours"),
        (HARMONY.format("hm", "colours"), "colours"),
        (HARMONY_STRIPPED.format("hm", "colours"), "colours"),
        ('```json\n{"description": "colours"}\n```', "colours"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "colours"}], "colours"),
        ("-ing verbs", "-ing verbs"),
        ("日付", "日付"),
    ],
)
def test_explanations_are_the_phrase(text: Any, phrase: str):
    assert read_explanation(answer(text)) == (phrase, "")


@pytest.mark.parametrize("text", ["", "...", '""', "x" * 300, '{"a": 1}', '{"a": "b"'])
def test_no_phrase_is_unreadable(text: str):
    assert read_explanation(answer(text)) == ("", "unreadable")


def test_what_cannot_be_read_is_shown_with_what_is_wrong_with_it():
    assert shown(answer("Well,\nit depends")) == "'Well, it depends'"
    assert shown(answer("<think>Okay", "length")) == "'<think>Okay', all of it thought, cut off by the limit of tokens"
    assert shown(answer("Yes, as the", "length")) == "'Yes, as the' cut off by the limit of tokens"
    assert shown(answer("", reasoning="Okay")) == "a thought and no answer"
    assert shown(answer("")) == "nothing"
    assert len(shown(answer("x" * 9999))) < MAX_SHOWN + 20
