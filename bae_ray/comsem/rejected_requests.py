"""Why a server rejects a request: known causes by its message, and a remedy for each."""

import re
from typing import Literal

Cause = Literal["system", "template", "context", "other"]

_CAUSES: dict[Cause, re.Pattern[str]] = {
    "system": re.compile(
        r"system.{0,10}(role|message|prompt)|role.{0,40}\bsystem\b|roles must alternate|must alternate between",
        re.IGNORECASE,
    ),
    "template": re.compile(r"chat[ _-]?template", re.IGNORECASE),
    "context": re.compile(
        r"context.{0,3}(length|size|window)|(longer than|exceed\w*|maximum|max) .{0,30}(length|context|tokens)|n_ctx|"
        r"max_new_tokens. must be|(prompt|input|context)s? (is|are) too (long|large)|reduce (the|your) .{0,20}length",
        re.IGNORECASE,
    ),
}
REMEDIES: dict[Cause, str] = {
    "system": "Its chat template takes no instructions, not even in the user's turn: give the server another one "
    "(vLLM: --chat-template FILE), or take another judge.",
    "template": "A model without a chat template is no judge: serve an instruction-tuned one, or give the server a "
    "template (vLLM: --chat-template FILE).",
    "context": "Serve the judge with a longer context (vLLM: --max-model-len), show it less of each sentence "
    "(--examples.context-tokens of comsem), let it think less (--reasoning), or take another judge.",
    "other": "See what the server's message asks for.",
}


def cause_of(message: str) -> Cause:
    """The cause that a server's message names."""
    found: list[Cause] = [cause for cause, pattern in _CAUSES.items() if pattern.search(message)]
    return found[0] if found else "other"
