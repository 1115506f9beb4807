"""Reading the judge's answers: what it said, whether it refused, whether it can be read at all.

An answer that cannot be read is a result of its own, which is counted; it never becomes a silent No.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Problem = Literal["", "refusal", "unreadable"]

CHOICES = ("Yes", "No")
MAX_EXPLANATION = 200
"""Characters; what is longer is not the phrase that was asked for."""

MOST_TOKENS = 1 << 40
"""Of an answer and its prompt: what is more was not counted."""

MIN_MASS = 0.01
"""P(Yes) + P(No) below which the two say nothing."""

_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)
_REFUSAL = re.compile(
    r"^\W*(i['\u2019]?m (so )?sorry|sorry,? (but )?i\b|i apologi[sz]e|"
    r"i (can(not|['\u2019]t)|could not|am unable|am not able)\b|i (won['\u2019]t|will not)\b|"
    r"i['\u2019]m (unable|not able)|as an ai\b|unfortunately,? i\b)",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"^(the (commonality|common (property|feature|theme|element)) (is|between \S+ \S+ is)|in common|commonality|answer|"
    r"description|phrase)\s*:\s*",
    re.IGNORECASE,
)
_WORD = re.compile(r"^\W*(yes|no)\b", re.IGNORECASE)
_OTHER = {"yes": re.compile(r"\bno\b", re.IGNORECASE), "no": re.compile(r"\byes\b", re.IGNORECASE)}


class Answer(NamedTuple):
    """One answer of the server, as it is cached."""

    text: str
    refusal: str
    """What the server puts in place of an answer, if it refuses."""
    finish_reason: str
    first_token: dict[str, float]
    """Log probabilities of what the first token might have been; empty where the server gives none."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt: those that the server had computed before."""

    @classmethod
    def of_body(cls, body: Any) -> "Answer":
        """The answer in the JSON body of a chat completion. Raises `ValueError` where it is none."""
        try:
            choice = body["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
            if not isinstance(content, str | None) or not isinstance(refusal, str | None):
                raise TypeError("content is no text")
            usage = body.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            return cls(
                text=_whole(content or ""),
                refusal=_whole(refusal or ""),
                finish_reason=_whole(str(choice.get("finish_reason") or "")),
                first_token=_first_token(choice.get("logprobs")),
                prompt_tokens=_tokens(usage.get("prompt_tokens")),
                completion_tokens=_tokens(usage.get("completion_tokens")),
                cached_tokens=_tokens(details.get("cached_tokens")),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"no chat completion: {type(error).__name__} {error}") from error


class Decision(NamedTuple):
    """Whether a description fits."""

    yes: bool
    """False, too, where there is a problem."""
    p_yes: float
    """P(Yes) / (P(Yes) + P(No)) of the first token; NaN where it is not known."""
    problem: Problem


class Explanation(NamedTuple):
    """What tokens have in common."""

    text: str
    """Empty where there is a problem."""
    problem: Problem


def read_decision(answer: Answer, threshold: float | None = None) -> Decision:
    """Yes or No; `threshold`: by whether P(Yes) is above it, whatever the word is."""
    p_yes = _p_yes(answer.first_token)
    text = _THOUGHTS.sub("", answer.text).strip()
    if _refuses(answer, text):
        return Decision(False, p_yes, "refusal")
    if threshold is not None and not math.isnan(p_yes):
        return Decision(p_yes > threshold, p_yes, "")
    if found := _WORD.match(text):
        word = found[1].lower()
        if not _OTHER[word].search(text, found.end()):
            return Decision(word == "yes", p_yes, "")
    return Decision(False, p_yes, "unreadable")


def read_explanation(answer: Answer) -> Explanation:
    """The phrase: the first line that has anything, without introduction and quotation marks."""
    text = _THOUGHTS.sub("", answer.text).strip()
    if _refuses(answer, text):
        return Explanation("", "refusal")
    line = _INTRODUCTION.sub("", next((line.strip() for line in text.splitlines() if line.strip()), ""))
    phrase = line.strip().strip("\"'\u201c\u201d\u2018\u2019`*").rstrip(".").strip()
    if not any(character.isalnum() for character in phrase) or len(phrase) > MAX_EXPLANATION:
        return Explanation("", "unreadable")
    return Explanation(phrase, "")


def _whole(text: str) -> str:
    """A text without the halves of characters that JSON can hold, and no file can."""
    return text.encode("utf-8", "replace").decode()


def _tokens(said: Any) -> int:
    """How many, as the server says; 0 where it does not. Raises `ValueError` for what is no number of tokens."""
    count = int(said or 0)
    if not 0 <= count < MOST_TOKENS:
        raise ValueError(f"{count} tokens")
    return count


def _refuses(answer: Answer, text: str) -> bool:
    return bool(answer.refusal) or answer.finish_reason == "content_filter" or bool(_REFUSAL.match(text))


def _p_yes(first_token: Mapping[str, float]) -> float:
    mass = {"yes": 0.0, "no": 0.0}
    for token, log_probability in first_token.items():
        if (word := token.strip().lower()) in mass:
            mass[word] += math.exp(log_probability)
    total = mass["yes"] + mass["no"]
    return mass["yes"] / total if total >= MIN_MASS else math.nan


def _first_token(logprobs: Any) -> dict[str, float]:
    content = (logprobs or {}).get("content") or []
    if not content:
        return {}
    alternatives = content[0].get("top_logprobs") or [content[0]]
    found = {_whole(str(entry["token"])): float(entry["logprob"]) for entry in alternatives}
    return {token: value for token, value in found.items() if value <= 1e-3}  # which NaN is not
