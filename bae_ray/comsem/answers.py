"""Reading a judge's answers as decisions, with P(Yes) from the log probabilities of the token, and explanations.

An unreadable answer is a result of its own and is counted as such: it is never taken for a No.
"""

import json
import math
import re
from typing import Any, Literal, NamedTuple

from bae_ray.comsem.completions import Answer, ScoredToken, letters
from bae_ray.comsem.decisions import find_decision, refuses
from bae_ray.comsem.reasoning import separate

Problem = Literal["", "refusal", "unreadable"]

CHOICES = ("Yes", "No")
MAX_EXPLANATION = 200
"""Longest explanation in characters: a longer text is not the phrase that was asked for."""
MAX_SHOWN = 120
"""Characters of an answer that messages show."""
MIN_MASS = 0.01
"""Smallest P(Yes) + P(No) from which their ratio is taken."""
MAX_UNKNOWN = 1 / 8
"""Largest share of P(Yes) + P(No) that unlisted tokens, and tokens that only begin one of the words, may have."""
SPELLINGS = 8
"""How many tokens of a vocabulary may spell one word, such as "Yes", " Yes" and "yes"."""
FORBIDDEN = -1000.0
"""Smaller log probabilities belong to tokens that the server does not allow: vLLM writes -9999."""
MAX_OTHERS = 1e-3
"""Largest probability of all other tokens where the server allows only the two words."""
_PARTS = {"y": "yes", "ye": "yes", "n": "no"}

_CANNOT = r"(?:can(?:not|['\u2019]t)|could not|(?:am|['\u2019]m) (?:unable|not able)|won['\u2019]t|will not)"
_REFUSAL = re.compile(
    r"^\W*(i['\u2019]?m (so )?sorry|sorry,? (but )?i\b|i apologi[sz]e|"
    rf"i ?{_CANNOT}\b|as an ai\b|unfortunately,? i\b)",
    re.IGNORECASE,
)
_SORRY_AFTER_WORD = re.compile(r"^\W*sorry\b", re.IGNORECASE)
_BEGINS_WITH_WORD = re.compile(r"^\W*(?:yes|no)\b(?=\W)", re.IGNORECASE)
_INTRODUCTION = re.compile(
    r"^[*_\"'\s]*(the (commonality|common (property|feature|theme|element)) (is|between \S+ \S+ is)|in common|"
    r"commonality|answer|description|phrase)[*_]*\s*:[*_]*\s*",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```\w*\s*(.*?)\s*(```|$)", re.DOTALL)


class Decision(NamedTuple):
    """A judge's decision whether a description fits."""

    yes: bool
    """Also False where there is a problem."""
    p_yes: float
    """P(Yes) / (P(Yes) + P(No)) of the token that is the answer; NaN where it is unknown."""
    problem: Problem


class Explanation(NamedTuple):
    """A judge's description of what tokens have in common."""

    text: str
    """Empty where there is a problem."""
    problem: Problem


def read_decision(answer: Answer, threshold: float | None = None) -> Decision:
    """The decision in an answer. With a `threshold` it is Yes where P(Yes) is above it, whatever the word is."""
    said = separate(answer.text)
    if _refuses(answer, said.answer) or _refuses_after_word(said.answer):
        return Decision(False, math.nan, "refusal")
    found = find_decision(said.answer, answer.cut)
    if found is None:
        return Decision(False, math.nan, "unreadable")
    probability = math.nan if found.start < 0 else p_yes(answer, said.start + found.start)
    if threshold is not None and not math.isnan(probability):
        return Decision(probability > threshold, probability, "")
    return Decision(found.yes, probability, "")


def read_explanation(answer: Answer) -> Explanation:
    """The explanation in an answer: its first line with text, without introduction and quotation marks."""
    said = separate(answer.text)
    if _refuses(answer, said.answer):
        return Explanation("", "refusal")
    text = _value(said.answer)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = _INTRODUCTION.sub("", lines[0]) if lines else ""
    if not line and len(lines) > 1:  # the introduction had a line of its own
        line = lines[1]
    phrase = line.strip().strip("\"'\u201c\u201d\u2018\u2019`*").rstrip(".").strip()
    # What was cut off before a second line may be a thought that has no mark, or half of a phrase.
    ended = not answer.cut or (len(lines) > 1 and (said.start > 0 or answer.thought))
    if not ended or not any(character.isalnum() for character in phrase) or len(phrase) > MAX_EXPLANATION:
        return Explanation("", "unreadable")
    return Explanation(phrase, "")


def shown(answer: Answer) -> str:
    """An answer as messages show it, with the reason why it cannot be read if that is known."""
    text = " ".join(answer.refusal.split() or answer.text.split())
    said = f"'{text if len(text) <= MAX_SHOWN else f'{text[:MAX_SHOWN]} ...'}'" if text else "nothing"
    thinks = answer.thought or separate(answer.text).unfinished
    if answer.cut:
        return f"{said}{', all of it thought,' if thinks else ''} cut off by the limit of tokens"
    if not text and thinks:
        return "a thought and no answer"
    return said


def _value(text: str) -> str:
    """The text inside a code fence or inside a JSON object with one text; other texts as they are."""
    if fenced := _FENCE.match(text):
        text = fenced[1]
    if not text.startswith("{"):
        return text
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    texts = [value for value in found.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else ""


def _refuses(answer: Answer, text: str) -> bool:
    return bool(answer.refusal) or answer.finish_reason == "content_filter" or bool(_REFUSAL.match(text))


def _refuses_after_word(text: str) -> bool:
    word = _BEGINS_WITH_WORD.match(text)
    return bool(word) and (refuses(text[word.end() :]) or bool(_SORRY_AFTER_WORD.match(text[word.end() :])))


def p_yes(answer: Answer, start: int) -> float:
    """P(Yes) / (P(Yes) + P(No)) of the token that is the word at `start` of the answer's text, over all spellings.

    NaN where it is unknown: the server gives no log probabilities, or not those of this token; the token is only a part
    of a word that may go on differently; or unlisted tokens may have too much of the probability. Where the server
    allows only the two words, a part counts as its word.
    """
    place = _place(answer, start)
    token = next((one for one in answer.scored if one.start <= place < one.start + len(one.token)), None)
    if token is None or letters(token.token) != letters(answer.text[start : start + len(letters(token.token))]):
        return math.nan
    return _share(token)


def _share(token: ScoredToken) -> float:
    mass = dict.fromkeys(("yes", "no", *_PARTS), 0.0)
    total = 0.0
    for other, log_probability in token.alternatives:
        probability = math.exp(log_probability)
        total += probability
        if (word := letters(other)) in mass:
            mass[word] += probability
    constrained = any(log_probability < FORBIDDEN for _, log_probability in token.alternatives)
    if constrained and sum(mass.values()) > 1 - MAX_OTHERS:
        for part, word in _PARTS.items():
            mass[word] += mass.pop(part)
    known = mass["yes"] + mass["no"]
    if known < MIN_MASS or letters(token.token) in mass.keys() & _PARTS or total > 1.02:
        return math.nan
    unknown = sum(mass.get(part, 0.0) for part in _PARTS)
    if not mass["yes"] or not mass["no"]:  # what is not listed is no more probable than anything that is
        least = math.exp(min(log_probability for _, log_probability in token.alternatives))
        unknown += min(max(0.0, 1 - total), SPELLINGS * least)
    return mass["yes"] / known if unknown <= MAX_UNKNOWN * (known + unknown) else math.nan


def _place(answer: Answer, start: int) -> int:
    """The index in `spoken` of a character of the text; -1 where the two cannot be aligned.

    Either `spoken` is the beginning of the text (some servers give only the first tokens), or it ends as the text does,
    after reasoning that the server gives elsewhere.
    """
    text, spoken = answer.text, answer.spoken
    lead, spoken_lead = (len(one) - len(one.lstrip()) for one in (text, spoken))
    first = spoken.strip()
    if not first or answer.thought.strip().startswith(first):
        return -1
    if text[lead:].startswith(first):
        return start - lead + spoken_lead
    said, heard = separate(text), separate(spoken)
    if not said.answer or len(first) < len(text.strip()) or not heard.answer.endswith(said.answer):
        return -1
    return heard.start + len(heard.answer) - len(said.answer) + start - said.start
