"""Thought and answer told apart, once for all that is read of an answer.

Models that think first mark where they do, each family in its own way; servers may take the marks out, or only some.
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
    """The answer within what a model said."""

    answer: str
    """Empty where there is none."""
    start: int
    """Where it begins, in characters of the whole."""
    unfinished: bool
    """Whether a thought has no end: it was cut off, or is still to come."""


def separate(text: str) -> Said:
    """The answer of a text that may hold a thought before it: what follows the thought's last mark.

    A thought may lack its opening mark, which the chat template has given itself; one that lacks its closing mark is
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
