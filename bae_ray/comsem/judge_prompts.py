"""Prompts for the judge, with the structure of the paper's Fig. 22 and 23 and text of our own (`data/*.txt`).

The instructions and worked examples are the same for every request and come first, as the system message, so that a
server with prefix caching computes them once; the question is last. Increase `PROMPT_VERSION` with every change of a
text: scores of different versions are not comparable.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
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


def interpret_prompt(examples: Sequence[Example]) -> list[Message]:
    """The question what tokens have in common (Fig. 22: instructions, 11 worked examples, the tokens)."""
    return _messages(_INTERPRET, f"{_tokens(examples)}\nIn common:")


def judge_prompt(example: Example, description: str) -> list[Message]:
    """The question whether a description fits a token (Fig. 23: instructions, 22 worked examples, the token)."""
    return _messages(_JUDGE, f"{_tokens([example])}\nDescription: {_quoted(description)}\nAnswer:")


def content_free_prompts() -> list[list[Message]]:
    """The same question without content: the answers show the judge's bias (Zhao et al., 2021)."""
    return [judge_prompt(Example(nothing, 0, nothing, 0, 0), nothing) for nothing in ("N/A", "", "[MASK]")]


def in_one_turn(messages: list[Message]) -> list[Message]:
    """The same for a model without system messages: the instructions are part of the user's message."""
    return [{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}]


def _tokens(examples: Sequence[Example]) -> str:
    return "\n".join(
        f"Token: {_quoted(one.token)} at position {one.position + 1} in: {_quoted(one.context)}" for one in examples
    )


def _quoted(text: str) -> str:
    """The text in quotation marks. Those inside, and line breaks, are escaped: no text can end its own quotation."""
    return json.dumps(text, ensure_ascii=False)


def _messages(prefix: str, asked: str) -> list[Message]:
    return [{"role": "system", "content": prefix}, {"role": "user", "content": asked}]


def _read(name: str) -> str:
    return files("bae_ray.comsem").joinpath("data", name).read_text(encoding="utf-8").removesuffix("\n")


_INTERPRET, _JUDGE = _read("interpret.txt"), _read("judge.txt")
