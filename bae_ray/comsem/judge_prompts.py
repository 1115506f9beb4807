"""Prompts for the judge, with the structure of the paper's Fig. 22 and 23 and text of our own.

The instructions and worked examples are the same for every request and come first, as the system message, so that a
server with prefix caching computes them once; the question is last. Increase `PROMPT_VERSION` with every change of a
text: scores of different versions are not comparable.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

PROMPT_VERSION = 1

Message = dict[str, str]


class Example(NamedTuple):
    """A token in its context."""

    token: str
    position: int
    """Index of the token among the tokens of the context, from 0."""
    context: str
    start: int
    """Index of the token's first character in the context."""
    end: int


class _Shown(NamedTuple):
    token: str
    position: int
    context: str


INTERPRET_INSTRUCTIONS = """\
Task: you are given several tokens, each with its position (counted from 1; how words are split into tokens depends on \
the tokenizer) and with the text around it. Say what these tokens have in common.
Answer with one short phrase, such as "names of months", "plural nouns", or "verbs of motion".
Be as specific as you can while the phrase still fits all of the tokens. Phrases that would fit nearly anything, such \
as "words", "tokens", "common English words" or "parts of a sentence", are not allowed; nor are remarks on how the \
text was split, such as "subword pieces".
Give only the phrase: no explanation, no introduction, nothing after it."""

_INTERPRET_EXAMPLES: tuple[tuple[tuple[_Shown, ...], str], ...] = (
    (
        (
            _Shown("paints", 2, "He paints the fence every spring."),
            _Shown("repairs", 3, "My aunt repairs old radios."),
            _Shown("cooks", 2, "Maria cooks for the whole street."),
            _Shown("drives", 3, "The nurse drives to work."),
        ),
        "third-person verbs for everyday activities",
    ),
    (
        (
            _Shown("tomorrow", 5, "We will leave early tomorrow."),
            _Shown("next month", 6, "The shop will open again next month."),
            _Shown("in 2040", 5, "They plan to land in 2040."),
            _Shown("soon", 6, "The bus should be here soon."),
        ),
        "future time expressions",
    ),
    (
        (
            _Shown("furious", 4, "The coach was furious about the call."),
            _Shown("annoyed", 3, "She sounded annoyed on the phone."),
            _Shown("outraged", 3, "Readers were outraged by the article."),
        ),
        "adjectives for anger",
    ),
    (
        (
            _Shown("oak", 3, "The old oak fell in the storm."),
            _Shown("birch", 4, "They planted a birch by the gate."),
            _Shown("pines", 5, "Snow lay on the pines."),
            _Shown("maple", 4, "Leaves of the maple turn red."),
        ),
        "kinds of trees",
    ),
    (
        (
            _Shown("Tokyo", 3, "Flights to Tokyo were cancelled."),
            _Shown("Nairobi", 6, "The summit was held in Nairobi."),
            _Shown("Lima", 4, "He grew up in Lima."),
        ),
        "capital cities",
    ),
    (
        (
            _Shown("seven", 3, "There were seven chairs left."),
            _Shown("forty", 4, "It took him forty days."),
            _Shown("12", 2, "Only 12 people came."),
            _Shown("three", 4, "The twins turned three."),
        ),
        "cardinal numbers",
    ),
    (
        (
            _Shown("not", 3, "I do not agree."),
            _Shown("never", 2, "She never called back."),
            _Shown("n't", 3, "They could n't find it."),
            _Shown("no", 4, "There is absolutely no doubt."),
        ),
        "negation",
    ),
    (
        (
            _Shown("but", 5, "It was cheap, but it worked."),
            _Shown("however", 4, "The test, however, failed."),
            _Shown("although", 1, "Although tired, he went on."),
        ),
        "words that mark a contrast",
    ),
    (
        (
            _Shown("goalkeeper", 2, "The goalkeeper saved two penalties."),
            _Shown("offside", 4, "The striker was offside again."),
            _Shown("kick-off", 3, "Fans missed kick-off because of rain."),
        ),
        "football terms",
    ),
    (
        (
            _Shown("shares", 2, "Its shares fell by four percent."),
            _Shown("dividend", 4, "The board cut the dividend."),
            _Shown("bonds", 4, "Investors fled to bonds."),
            _Shown("loan", 3, "A second loan was refused."),
        ),
        "financial instruments",
    ),
    (
        (
            _Shown("my", 2, "Where did my keys go?"),
            _Shown("their", 3, "We borrowed their boat."),
            _Shown("her", 4, "The captain lost her hat."),
        ),
        "possessive determiners",
    ),
)

JUDGE_INSTRUCTIONS = """\
Task: you are given a token, its position (counted from 1), the text around it, and a proposed description of what the \
token is or does there. Decide whether the description is right for this token in this text.
Answer with one word:
- "Yes" if the description is right
- "No" if it is wrong
Give only that word: no explanation, no introduction, nothing after it."""

_JUDGE_EXAMPLES: tuple[tuple[_Shown, str, bool], ...] = (
    (_Shown("singing", 4, "The children were singing in the bus."), "present participle", True),
    (_Shown("river", 2, "The river rose overnight."), "verb", False),
    (_Shown("slowly", 3, "He walked slowly down the stairs."), "adverb of manner", True),
    (_Shown("third", 4, "This was the third attempt."), "ordinal number", True),
    (_Shown("of", 4, "A cup of tea stood there."), "expression of anger", False),
    (_Shown("waiting", 3, "We were waiting for news."), "verb of eating or drinking", False),
    (_Shown("Paris", 5, "The train arrives in Paris at noon."), "name of a city", True),
    (_Shown("Paris", 5, "The train arrives in Paris at noon."), "name of a person", False),
    (_Shown("seven", 3, "She has seven cousins."), "number", True),
    (_Shown("yellow", 4, "He wore a yellow coat."), "colour term", True),
    (_Shown("coat", 5, "He wore a yellow coat."), "colour term", False),
    (_Shown("yesterday", 4, "The parcel came yesterday."), "expression of past time", True),
    (_Shown("tomorrow", 4, "The parcel comes tomorrow."), "expression of past time", False),
    (_Shown("because", 4, "They stayed in because it rained."), "conjunction that gives a reason", True),
    (_Shown("?", 5, "Where did it go?"), "punctuation that ends a question", True),
    (_Shown(",", 4, "After the war, they moved."), "word related to the military", False),
    (_Shown("war", 3, "After the war, they moved."), "word related to the military", True),
    (_Shown("they", 4, "After the war they moved."), "plural pronoun", True),
    (_Shown("bank", 4, "They sat on the bank of the stream."), "financial institution", False),
    (_Shown("delighted", 3, "She was delighted with the gift."), "negative emotion", False),
    (_Shown("violin", 4, "He plays the violin badly."), "musical instrument", True),
    (_Shown("the", 3, "He plays the violin badly."), "proper noun", False),
)


def interpret_prompt(examples: Sequence[Example]) -> list[Message]:
    """The question what tokens have in common (Fig. 22: instructions, 11 worked examples, the tokens)."""
    return _messages(_INTERPRET_PREFIX, f"{_tokens([_shown(example) for example in examples])}\nIn common:")


def judge_prompt(example: Example, description: str) -> list[Message]:
    """The question whether a description fits a token (Fig. 23: instructions, 22 worked examples, the token)."""
    return _messages(_JUDGE_PREFIX, _question(_shown(example), description))


def content_free_prompts() -> list[list[Message]]:
    """The same question without content: the answers show the judge's bias (Zhao et al., 2021)."""
    return [
        _messages(_JUDGE_PREFIX, _question(_Shown(nothing, 1, nothing), nothing)) for nothing in ("N/A", "", "[MASK]")
    ]


def in_one_turn(messages: list[Message]) -> list[Message]:
    """The same for a model without system messages: the instructions are part of the user's message."""
    return [{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}]


def _shown(example: Example) -> _Shown:
    return _Shown(example.token, example.position + 1, example.context)


def _tokens(shown: Sequence[_Shown]) -> str:
    return "\n".join(f"Token: {_quoted(t.token)} at position {t.position} in: {_quoted(t.context)}" for t in shown)


def _question(shown: _Shown, description: str) -> str:
    return f"{_tokens([shown])}\nDescription: {_quoted(description)}\nAnswer:"


def _quoted(text: str) -> str:
    """The text in quotation marks. Those inside, and line breaks, are escaped: no text can end its own quotation."""
    return json.dumps(text, ensure_ascii=False)


def _messages(prefix: str, asked: str) -> list[Message]:
    return [{"role": "system", "content": prefix}, {"role": "user", "content": asked}]


_INTERPRET_PREFIX = "\n\n".join(
    [
        INTERPRET_INSTRUCTIONS,
        *(
            f"Example {number}:\n{_tokens(shown)}\nIn common: {answer}"
            for number, (shown, answer) in enumerate(_INTERPRET_EXAMPLES, 1)
        ),
        "Now the tokens to describe:",
    ]
)

_JUDGE_PREFIX = "\n\n".join(
    [
        JUDGE_INSTRUCTIONS,
        *(
            f"Example {number}:\n{_question(shown, description)} {'Yes' if right else 'No'}"
            for number, (shown, description, right) in enumerate(_JUDGE_EXAMPLES, 1)
        ),
        "Now the token to judge:",
    ]
)
