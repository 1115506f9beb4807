"""Separating a model's reasoning from its answer.

Reasoning models mark their reasoning, each family in its own way. Servers may remove all marks, or some of them.
"""

import re
from typing import NamedTuple

_NAME = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|seed:think|analysis|scratchpad"
_OPENED = re.compile(
    rf"<({_NAME})>|\[({_NAME})\]|\u25c1think\u25b7|<\|(?:begin_of_thought|start_thinking|think)\|>|<unused94>",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"</({_NAME})>|\[/({_NAME})\]|\u25c1/think\u25b7|<\|(?:end_of_thought|end_thinking|/think)\|>|<unused95>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
# The same where a server has taken the marks out, so that their words run into the text.
_BARE_CHANNEL = re.compile(
    r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z\"'])|"
    r"\s*(?:(?:assistant)?(?:analysis|commentary).*)?assistant\s?final",
    re.DOTALL,
)
_BARE_FINAL = re.compile(r"assistant\s?final")
_STARTS = re.compile(r"(?:\s|<\|(?:im_start|start|begin_of_solution|start_response)\|>|<s>|<bos>)*", re.IGNORECASE)
_END = re.compile(r"(?:<\|[\w/]+\|>|</s>|<eos>|<end_of_turn>|<\uff5c[^>\uff5c]{1,40}\uff5c>)\Z")


class Said(NamedTuple):
    """The answer within the text of a model."""

    answer: str
    """Empty where there is no answer."""
    start: int
    """Index of its first character in the whole text."""
    unfinished: bool
    """Whether the reasoning has no end, since the text was cut off."""


def separate(text: str) -> Said:
    """The part of a text after its reasoning, which ends at its last mark.

    The opening mark may be missing, since chat templates may give it. Without the closing mark the reasoning is
    unfinished.
    """
    if _CHANNEL.search(text) or _BARE_CHANNEL.match(text):
        finals = [*_FINAL.finditer(text)] or [*_BARE_FINAL.finditer(text)]
        start = finals[-1].end() if finals else None
    else:
        start = max((found.end() for found in _CLOSED.finditer(text)), default=0)
        if _OPENED.search(text, start):
            start = None
    if start is None:
        return Said("", len(text), unfinished=True)
    first = _STARTS.match(text, start)
    start = first.end() if first else start
    answer = text[start:].rstrip()
    while found := _END.search(answer):
        answer = answer[: found.start()].rstrip()
    return Said(answer, start, unfinished=False)
