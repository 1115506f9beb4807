"""The parameters that a judge's server accepts; those that it rejects are left out of later requests.

Servers support different versions of OpenAI's chat completions. The first requests show what one rejects. This is kept
in the cache, so that a later run sends the same requests and finds their answers there.
"""

from typing import Any

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.judge_prompts import in_one_turn
from bae_ray.comsem.rejected_requests import cause_of

SYSTEM = "system"
"""Withheld from servers without system messages: the instructions are then part of the user's message."""
OPTIONAL = ("structured_outputs", "top_logprobs", "seed", "temperature")
"""Parameters that may be left out, in the order in which they are tried."""


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
