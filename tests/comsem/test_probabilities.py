"""P(Yes) is read from the token that is the answer, or not at all."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.comsem.answers import read_decision
from tests.comsem.scripted_answers import answer, listed, token


def test_probabilities_are_of_yes_against_no_in_all_spellings():
    said = answer("No", tokens=[token("No", **{"Yes": 0.3, " yes": 0.05, "YES": 0.05, "No": 0.2, "Maybe": 0.4})])
    assert read_decision(said).p_yes == pytest.approx(0.4 / 0.6)
    assert math.isnan(read_decision(answer("No", tokens=[token("No", Maybe=0.9)])).p_yes)
    assert math.isnan(read_decision(answer("No")).p_yes)


def test_a_token_listed_twice_counts_with_both():
    """Two tokens of a vocabulary may read the same; the chosen one may stand in the list, and beside it."""
    twice = token("Yes", No=0.05) | listed("Yes", 0.7)
    twice["top_logprobs"] = [listed("Yes", 0.7), listed("Yes", 0.2), listed("No", 0.1), listed("Yes", 0.7)]
    assert read_decision(answer("Yes", tokens=[twice])).p_yes == pytest.approx(0.9)


def test_null_log_probabilities_are_left_out():
    said = answer("Yes", tokens=[token("Yes", Yes=0.9, No=0.1, x=None)])
    assert read_decision(said)[:2] == (True, pytest.approx(0.9))
    nothing = {"token": "Yes", "logprob": None, "top_logprobs": [listed("Yes", None), listed("No", None)]}
    assert read_decision(answer("Yes", tokens=[nothing]))[0::2] == (True, "")
    assert math.isnan(read_decision(answer("Yes", tokens=[nothing])).p_yes)


THINKING = [token("Okay", Okay=0.6, Yes=0.2, No=0.2), token(" no", **{" no": 0.9, " yes": 0.1})]
YES = token("Yes", Yes=0.8, No=0.2)


@pytest.mark.parametrize(
    ("content", "tokens", "fields"),
    [
        ("<think>Okay no</think>Yes", [token("<think>"), *THINKING, token("</think>"), YES], {}),
        ("Okay no</think>\n\nYes", [*THINKING, token("</think>"), token("\n\n"), YES], {}),
        ("Yes", [*THINKING, token("</think>"), token("\n\n"), YES], {"reasoning_content": "Okay no"}),
        ("\n\nYes", [*THINKING, token(""), token("\n\n"), YES, token("")], {"reasoning": "Okay no"}),
        ("Yes", [YES], {"reasoning_content": "Okay no"}),
        ("Yes", [YES, token("<|im_end|>")], {}),
        ("Answer: Yes.", [token("Answer"), token(":"), token(" Yes", **{" Yes": 0.8, " No": 0.2}), token(".")], {}),
        ('"Yes"', [token('"'), YES, token('"')], {}),
        ("analysisOkay noassistantfinalYes", [token("<|channel|>"), token("analysis"), token("<|message|>"), *THINKING,
         token("<|end|>"), token("<|start|>"), token("assistant"), token("<|channel|>"), token("final"),
         token("<|message|>"), YES, token("<|return|>")], {}),
        ('{"answer": "Yes"}', [token('{"'), token("answer"), token('": "'), YES, token('"}')], {}),
        ("Yes, it does.", [YES], {}),
        ("\u2581Yes".replace("\u2581", " "), [token("\u2581Yes", **{"\u2581Yes": 0.8, "\u2581No": 0.2})], {}),
        ("\u00e9</think>Yes", [{**token("\ufffd"), "bytes": [0xC3]}, {**token("\ufffd"), "bytes": [0xA9]},
                               token("</think>"), YES], {}),
    ],
)  # fmt: skip
def test_probabilities_are_those_of_the_token_that_is_the_answer(
    content: str, tokens: list[Any], fields: dict[str, Any]
):
    said = read_decision(answer(content, tokens=tokens, **fields))
    assert (said.yes, said.problem) == (True, "")
    assert said.p_yes == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("content", "tokens", "fields"),
    [
        ("<think>Yes no</think>No", [YES], {}),
        ("Yes", [token("Okay", Okay=0.6, Yes=0.2, No=0.2)], {"reasoning": "Okay, it may fit."}),
        ("Yes", [token("Yes", Yes=0.5, No=0.5)], {"reasoning": "Yes, it may fit."}),
        ("Yes", [token("Y", Y=0.8, N=0.1, No=0.05, Yes=0.05), token("es", es=1.0)], {}),
        ("Yes", [token("Yes", Yes=0.4, Y=0.3, No=0.3)], {}),
        ("Yes", [{**listed("Yes", 0.6), "top_logprobs": []}], {}),
        ("Yes", [token("Yes", Yes=0.9, No=0.8)], {}),
        ('{"answer": true}', [token('{"answer": '), token("true", true=0.9, false=0.1), token("}")], {}),
        ("Yes", [token("No", No=0.9, Yes=0.1)], {}),
    ],
)
def test_probabilities_of_other_tokens_are_none(content: str, tokens: list[Any], fields: dict[str, Any]):
    """Of a thought, of a part of the word, of one word alone, of what cannot be: not known, and never wrong."""
    assert math.isnan(read_decision(answer(content, tokens=tokens, **fields)).p_yes)


@given(st.lists(st.sampled_from(["Okay", " yes", " no", "Yes", " it", "\n", " é", " N"]), max_size=8),
       st.floats(0.02, 0.97), st.sampled_from(["Yes", "No"]), st.booleans())  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_thought_changes_no_probability(thought: list[str], p: float, word: str, separated: bool):
    """However the thought's own tokens read, and whether the server parts it from the answer or not."""
    last = token(word, Yes=p, No=0.99 - p)
    thinking = [token(piece, **{piece: 0.4, "Yes": 0.35, "No": 0.25}) for piece in thought]
    said = "".join(thought)
    content, fields = (word, {"reasoning_content": said}) if separated else (f"{said}</think>\n{word}", {})
    found = read_decision(answer(content, tokens=[*thinking, token("</think>"), token("\n"), last], **fields))
    assert found == (word == "Yes", pytest.approx(p / 0.99), "")


def test_calibrated_decisions_are_by_probability():
    tokens = [token("No", Yes=0.3, No=0.7)]
    assert not read_decision(answer("No", tokens=tokens)).yes
    assert read_decision(answer("No", tokens=tokens), threshold=0.2).yes
    assert not read_decision(answer("Yes", tokens=[token("Yes", Yes=0.3, No=0.7)]), threshold=0.4).yes
    assert read_decision(answer("Yes"), threshold=0.9).yes, "without probabilities the word counts"


@pytest.mark.parametrize("said", [[("No", 1.0)], [("N", 1.0), ("o", 1.0)]])
def test_a_part_is_its_word_where_the_server_lets_nothing_else_through(said: list[tuple[str, float]]):
    """As vLLM answers a question without content, where the model would have said N/A."""
    masses = {"No": 0.6608, "N": 0.2431, "Yes": 0.0894, "Y": 0.0065, "Ye": 0.0002, "#": 0.0}
    tokens = [token(said[0][0], **masses), *(token(text, **{text: p}) for text, p in said[1:])]
    assert read_decision(answer("No", tokens=tokens)) == (False, pytest.approx(0.0961, abs=1e-4), "")
    free = {**masses, "N": 0.2, "Maybe": 0.0431}
    assert math.isnan(read_decision(answer("No", tokens=[token("No", **free)])).p_yes), "N may have been N/A"


def test_calibrated_decisions_drop_no_refusal():
    """The two words' probabilities are the tail of what else would be said."""
    tail = [token("I", I=0.99, Yes=1e-5, No=1e-6)]
    refused = answer("I'm sorry, I can't judge that.", tokens=tail)
    assert read_decision(refused, threshold=0.5)[0::2] == (False, "refusal")
    assert math.isnan(read_decision(refused).p_yes)
    assert read_decision(answer("Hmm", tokens=tail), threshold=0.5)[0::2] == (False, "unreadable")
    policy = answer("Yes", refusal="policy", tokens=[token("Yes", Yes=0.9, No=0.1)])
    assert read_decision(policy, threshold=0.5)[0::2] == (False, "refusal")
