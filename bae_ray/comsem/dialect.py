"""The parameters that a judge's server accepts; why it rejects a request, by its message, and a remedy.

Servers support different versions of OpenAI's chat completions. The first requests show what one rejects; that is left
out of later ones. It is kept in the cache, so that a later run sends the same requests and finds their answers there.
"""

import re
from typing import Any, Literal

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.judge_prompts import in_one_turn

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
SYSTEM = "system"
"""Withheld from servers without system messages: the instructions are then part of the user's message."""
OPTIONAL = ("structured_outputs", "top_logprobs", "seed", "temperature")
"""Parameters that may be left out, in the order in which they are tried."""


def cause_of(message: str) -> Cause:
    """The cause that a server's message names."""
    found: list[Cause] = [cause for cause, pattern in _CAUSES.items() if pattern.search(message)]
    return found[0] if found else "other"


class Dialect:
    """Requests in the form that one server accepts."""

    def __init__(self, cache: AnswerCache, server: str, model: str) -> None:
        self._cache, self._server, self._key = cache, server, f"{server} {model}"
        self.withheld = cache.withheld(self._key)
        """Parameters that the server rejects."""
        self._accepted: set[frozenset[str]] = set()

    def written(self, request: dict[str, Any], withheld: frozenset[str]) -> dict[str, Any]:
        """What identifies a request in the cache; its `body` is what goes to the server."""
        body = {key: value for key, value in request.items() if key not in withheld}
        if "top_logprobs" in withheld:
            body.pop("logprobs", None)
        if SYSTEM in withheld:
            body["messages"] = in_one_turn(request["messages"])
        if "max_tokens" in withheld:  # newer hosted models
            body["max_completion_tokens"] = request["max_tokens"]
        if "seed" in request and "seed" in withheld:  # or samples would be taken for one another
            return {"url": self._server, "sample": request["seed"], "body": body}
        return {"url": self._server, "body": body}

    def accept(self, body: dict[str, Any], withheld: frozenset[str]) -> None:
        """Note that the server has accepted a body."""
        self._accepted.add(frozenset(body))
        if not withheld <= self.withheld:
            self.withheld |= withheld
            self._cache.set_withheld(self._key, self.withheld)

    def refused(self, status: int, message: str, body: dict[str, Any], withheld: frozenset[str]) -> str | None:
        """The parameter because of which the server may have rejected a body; None where no parameter is the cause."""
        cause = cause_of(message)
        # A template's own complaint comes with other statuses, too.
        if status not in (400, 422, 500) or frozenset(body) in self._accepted:
            return None
        if cause == SYSTEM and SYSTEM not in withheld:
            return SYSTEM
        if cause != "other" or status == 500:
            return None
        named = [name for name in (*OPTIONAL, "max_tokens") if name in message and name in body]
        if "logprobs" in message and "top_logprobs" in body:
            named.append("top_logprobs")
        guessed = [name for name in OPTIONAL if name in body and name != "temperature"]
        return next(iter([*named, *guessed]), None)
