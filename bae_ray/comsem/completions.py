"""Chat completions: the parts of a server's response that are kept.

The cache holds them as they came, so that a better reader also reads all earlier answers better.
"""

import codecs
import json
from typing import Any, NamedTuple

MOST_TOKENS = 1 << 40
"""Largest number of tokens of a prompt or an answer; a larger one is an error of the server."""
THOUGHT_PARTS = ("thinking", "reasoning", "thought", "redacted_thinking", "analysis")
"""Types of message parts that are reasoning, and not the answer."""
DECISIVE = ("yes", "no", "y", "ye", "n")
"""Letters of the tokens whose alternatives are kept: a decision or its beginning."""


class ScoredToken(NamedTuple):
    """A token that may be a decision, and the alternatives to it."""

    start: int
    """Where it begins in `Answer.spoken`, in characters."""
    token: str
    alternatives: list[tuple[str, float]]
    """Tokens and their log probabilities, the token itself among them where the server gives its own."""


class Answer(NamedTuple):
    """One answer of a server, as it is cached."""

    text: str
    refusal: str
    """The server's own text of a refusal; empty where it does not refuse."""
    finish_reason: str
    scored: list[ScoredToken]
    """Tokens that may be the decision, with their alternatives; empty where the server gives no log probabilities."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt: those that the server had computed before."""
    spoken: str = ""
    """All tokens with log probabilities, joined: may hold reasoning and marks that the text does not."""
    thought: str = ""
    """Reasoning that the server gives beside the answer."""

    @property
    def cut(self) -> bool:
        """Whether the token limit ended the answer."""
        return self.finish_reason == "length"

    @classmethod
    def of_body(cls, body: Any) -> "Answer":
        """The answer in the JSON body of a chat completion. Raises `ValueError` for an invalid one."""
        try:
            choice = body["choices"][0]
            message = choice["message"]
            content, thoughts, refusals = _parts(message.get("content"))
            refusal = message.get("refusal")
            if not isinstance(refusal, str | None):
                raise TypeError("refusal is no text")
            beside = message.get("reasoning_content") or message.get("reasoning")
            spoken, scored = _scored(choice.get("logprobs"))
            usage = body.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            return cls(
                text=_whole(content if content.strip() else _called_with(message)),
                refusal=_whole(refusal or refusals),
                finish_reason=_whole(str(choice.get("finish_reason") or "")),
                scored=scored,
                prompt_tokens=_tokens(usage.get("prompt_tokens")),
                completion_tokens=_tokens(usage.get("completion_tokens")),
                cached_tokens=_tokens(details.get("cached_tokens")),
                spoken=spoken,
                thought=_whole(beside if isinstance(beside, str) else thoughts),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"no chat completion: {type(error).__name__} {error}") from error

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Answer":
        """The answer in a record of the cache, also of earlier versions.

        Earlier versions kept only the alternatives of the first token, and of a token listed twice only the last
        probability. These are used where the text begins with the more probable of the two decisions among them.
        """
        if "first_token" not in record:
            return cls(**{**record, "scored": [_of_record(*one) for one in record["scored"]]})
        first = {str(token): float(value) for token, value in record["first_token"].items()}
        others = {name: value for name, value in record.items() if name != "first_token"}
        decisive = {token: value for token, value in first.items() if letters(token) in ("yes", "no")}
        likely = max(decisive, key=lambda token: decisive[token], default="")
        said = record["text"].lstrip()
        if not likely or not said.casefold().startswith(likely.strip().casefold()):
            return cls(**others, scored=[])
        token = said[: len(likely.strip())]
        return cls(**others, scored=[ScoredToken(0, token, list(first.items()))], spoken=token)


def letters(token: str) -> str:
    """A token's letters and digits in lower case, without blanks, quotes and other marks."""
    return "".join(character for character in token.casefold() if character.isalnum())


def _of_record(start: int, token: str, alternatives: list[list[Any]]) -> ScoredToken:
    return ScoredToken(int(start), str(token), [(str(other), float(value)) for other, value in alternatives])


def _parts(content: Any) -> tuple[str, str, str]:
    """Text, thought and refusal of a message's content, which is a text or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    if not isinstance(content, list):
        raise TypeError("content is no text")
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif part.get("type") in THOUGHT_PARTS:
            thoughts.append(json.dumps(part, ensure_ascii=False))
        elif part.get("type") == "refusal":
            refusals.append(str(part["refusal"]))
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "".join(texts), "\n".join(thoughts), "\n".join(refusals)


def _called_with(message: Any) -> str:
    """The arguments of the only tool call of a message, as JSON; empty for none, or several."""
    calls = [call["function"] for call in message.get("tool_calls") or [] if "function" in call]
    calls = calls or ([message["function_call"]] if message.get("function_call") else [])
    if len(calls) != 1:
        return ""
    arguments = calls[0].get("arguments") or ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _scored(logprobs: Any) -> tuple[str, list[ScoredToken]]:
    """All tokens joined, and those that may be a decision."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spoken = ""
    scored: list[ScoredToken] = []
    for entry in (logprobs or {}).get("content") or []:
        start, token = len(spoken), _readable(entry["token"])
        spoken += decoder.decode(bytes(entry.get("bytes") or token.encode()))  # a token may end within a character
        if letters(token) in DECISIVE:
            scored.append(ScoredToken(start, token, _alternatives(entry)))
    return spoken, scored


def _alternatives(entry: Any) -> list[tuple[str, float]]:
    """The alternatives with a known log probability, each a token and that.

    Different tokens may have the same text, so that a text is listed twice; equal entries are taken once.
    """
    listed = [_alternative(one) for one in entry.get("top_logprobs") or []]
    known = list(dict.fromkeys(one for one in listed if one))
    chosen = _alternative(entry)
    return [*known, chosen] if chosen and chosen[0] not in {token for token, _ in known} else known


def _alternative(entry: Any) -> tuple[str, float] | None:
    token, given = _readable(entry["token"]), entry.get("logprob")
    if given is None or not (value := float(given)) <= 1e-3:  # which NaN is not
        return None
    return token, min(value, 0.0)


def _readable(token: Any) -> str:
    """A token as text. Some servers write blanks and line ends as the tokenizer's file does."""
    return _whole(str(token)).replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")


def _whole(text: str) -> str:
    """A text without lone surrogates, which JSON may hold and UTF-8 files may not."""
    return text.encode("utf-8", "replace").decode()


def _tokens(said: Any) -> int:
    """A number of tokens; 0 where the server gives none. Raises `ValueError` for an invalid one."""
    count = int(said or 0)
    if not 0 <= count < MOST_TOKENS:
        raise ValueError(f"{count} tokens")
    return count
