"""Answers as real servers give them: each kind is read, and what is none is never taken for one."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bae_ray.comsem.answers import MAX_SHOWN, Answer, read_decision, read_explanation, shown

THOUGHT = "Okay, let me see. It may well be no verb, yes? I would say so."
HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
HARMONY_STRIPPED = "analysis{}assistantfinal{}"


def body(
    content: Any, finish: str = "stop", tokens: list[Any] | None = None, **message: Any
) -> dict[str, Any]:  # fmt: skip
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    if tokens is not None:
        choice["logprobs"] = {"content": tokens}
    return {"choices": [choice]}


def answer(content: Any, finish: str = "stop", tokens: list[Any] | None = None, **message: Any) -> Answer:
    return Answer.of_body(body(content, finish, tokens, **message))


def token(text: str, /, **alternatives: float | None) -> dict[str, Any]:
    """A token of the server's log probabilities, whose alternatives are given with their probabilities."""
    top = [listed(name, p) for name, p in alternatives.items()]
    return {**next((one for one in top if one["token"] == text), listed(text, 0.5)), "top_logprobs": top}


def listed(text: str, p: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": None if p is None else math.log(p) if p else -9999.0}


def told(text: str, finish: str = "stop", **message: Any) -> tuple[bool, str]:
    decision = read_decision(answer(text, finish, **message))
    return decision.yes, decision.problem


def in_all_forms(word: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Content and further fields of a message that answers with this word, in the forms that servers give it."""
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": word}]
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": json.dumps({"answer": word})}}
    called = {**call, "function": {"name": "a", "arguments": {"answer": word}}}
    texts = {
        "word": word, "small": word.lower(), "capitals": f" {word.upper()}.", "quoted": f'"{word}"',
        "guillemets": f"«{word}»", "bold": f"**{word}**", "brackets": f"[{word}]", "braces": f"{{{word}}}",
        "corner brackets": f"「{word}」。", "full width": "".join(chr(ord(c) + 0xFEE0) for c in f"{word}."),
        "boxed": f"$\\boxed{{{word}}}$", "boxed text": f"\\boxed{{\\text{{{word}}}}}",
        "tag": f"<answer>{word}</answer>",
        "end mark": f"{word}<|im_end|>", "label": f"Answer: {word}.", "bold label": f"**Answer:** {word}",
        "wide label": f"Answer\uff1a{word}", "sentence": f"The answer is **{word}**.", "final": f"Final answer: {word}",
        "reason": f"{word}, because the token is a noun.", "reason at once": f"{word} because it is a noun",
        "reason after a dash": f"{word} - the token is a noun", "reason in brackets": f"{word} (the token is a noun)",
        "reason below": f"**{word}**\n\nThe token names a thing.", "statement": f"{word}. Paris is a city.",
        "about the token": f'{word}, "paints" names a thing.', "json": json.dumps({"answer": word}),
        "fenced json": f'```json\n{{\n  "answer": "{word}"\n}}\n```', "json with a reason":
        json.dumps({"reason": "no verb, yes", "answer": word}), "json of one value": json.dumps({"fits": word}),
        "json of a truth value": json.dumps({"answer": word == "Yes"}),
        "think": f"<think>\n{THOUGHT}\n</think>\n\n{word}", "no opening tag": f"{THOUGHT}\n</think>\n\n{word}",
        "thinking": f"<thinking>{THOUGHT}</thinking>{word}", "nothing thought": f"<think>\n\n</think>\n\n{word}",
        "brackets of thought": f"[THINK]{THOUGHT}[/THINK]{word}", "harmony": HARMONY.format(THOUGHT, word),
        "harmony without marks": HARMONY_STRIPPED.format(THOUGHT, word),
    }  # fmt: skip
    return {name: (text, {}) for name, text in texts.items()} | {
        "parts": (parts, {}),
        "parts of text": ([{"type": "text", "text": word[:1]}, {"type": "text", "text": word[1:]}], {}),
        "reasoning_content": (f"\n\n{word}", {"reasoning_content": THOUGHT}),
        "reasoning": (word, {"reasoning": THOUGHT}),
        "tool": (None, {"tool_calls": [call]}),
        "tool with an object": ("", {"tool_calls": [called]}),
        "function": (None, {"function_call": call["function"]}),
    }


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


def test_calibrated_decisions_drop_no_refusal():
    """The two words' probabilities are the tail of what else would be said."""
    tail = [token("I", I=0.99, Yes=1e-5, No=1e-6)]
    refused = answer("I'm sorry, I can't judge that.", tokens=tail)
    assert read_decision(refused, threshold=0.5)[0::2] == (False, "refusal")
    assert math.isnan(read_decision(refused).p_yes)
    assert read_decision(answer("Hmm", tokens=tail), threshold=0.5)[0::2] == (False, "unreadable")
    policy = answer("Yes", refusal="policy", tokens=[token("Yes", Yes=0.9, No=0.1)])
    assert read_decision(policy, threshold=0.5)[0::2] == (False, "refusal")


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
