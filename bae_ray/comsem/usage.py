"""Counting the requests to a judge, their tokens and their cost."""

from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.budget import Budget, estimated_tokens
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig


class Usage(NamedTuple):
    """Requests, tokens and cost of one run."""

    sent: int
    """Requests sent, including repeated ones."""
    answered: int
    """Answers received."""
    from_cache: int
    """Answers found in the cache."""
    retried: int
    prompt_tokens: int
    completion_tokens: int
    prefix_tokens: int
    """Prompt tokens that the server had in its cache, as far as it says so."""
    cost: float
    """Dollars of this run."""
    estimated: int = 0
    """Requests with an unknown number of tokens, since the server does not say or did not answer. The cost counts their
    prompts by length and the longest answers; the tokens above do not count them."""

    def after(self, first: "Usage") -> "Usage":
        """The sum with the usage of a first question, which this run has then found in the cache."""
        together = Usage._make(a + b for a, b in zip(first, self, strict=True))
        return together._replace(from_cache=self.from_cache - first.answered)


class Account:
    """Counts requests and their answers, and keeps the cost below the config's limit."""

    def __init__(self, config: JudgeConfig, cache: AnswerCache) -> None:
        self._cache = cache
        self._budget = Budget(config.input_price, config.output_price, config.max_cost, cache.tokens())
        self._counts: dict[str, int] = dict.fromkeys(("sent", "answered", "from_cache", "retried", "estimated"), 0)
        self._tokens: dict[str, int] = dict.fromkeys(("prompt_tokens", "completion_tokens", "prefix_tokens"), 0)

    @property
    def usage(self) -> Usage:
        """The usage of this run so far."""
        return Usage(**self._counts, **self._tokens, cost=self._budget.spent_now)

    @property
    def has_answers(self) -> bool:
        """Whether the judge has answered anything, now or before."""
        return self._counts["answered"] + self._counts["from_cache"] > 0

    def reserve(self, request: dict[str, Any]) -> AbstractAsyncContextManager[None]:
        """Set aside what a request may cost while it is under way."""
        return self._budget.reserve(request["messages"], request["max_tokens"])

    def count(self, what: str) -> None:
        """Count one more request of this kind: a field of `Usage`."""
        self._counts[what] += 1

    def pay(self, request: dict[str, Any], sent: dict[str, Any], answer: Answer) -> None:
        """Record an answer in the cache, and pay for it. `sent` is the request as it went to the server."""
        said = answer.prompt_tokens, answer.completion_tokens
        self._counts["estimated"] += 0 in said
        # A server that does not say may have thought the most.
        tokens = said[0] or estimated_tokens(request["messages"]), said[1] or request["max_tokens"]
        self._cache.put(sent, answer, tokens)
        self._budget.pay(*tokens)

    def pay_for_lost(self, request: dict[str, Any]) -> None:
        """Record what a request may have cost that has no answer."""
        tokens = estimated_tokens(request["messages"]), request["max_tokens"]
        self._counts["estimated"] += 1
        self._cache.put_lost(tokens)
        self._budget.pay(*tokens)

    def count_answer(self, answer: Answer) -> None:
        """Count an answer and the tokens that the server says it took."""
        self._counts["answered"] += 1
        self._tokens["prompt_tokens"] += answer.prompt_tokens
        self._tokens["completion_tokens"] += answer.completion_tokens
        self._tokens["prefix_tokens"] += answer.cached_tokens
