"""Counting the requests to a judge, their tokens and their cost, which is kept below a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from bae_ray import meters
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge_prompts import Message
from bae_ray.errors import CostLimitError

CHARACTERS_PER_TOKEN = 4
"""Roughly, in English text; for estimates."""
TOKENS_PER_MESSAGE = 16
"""Largest number of tokens that a server's template adds to a message."""


def estimated_tokens(messages: list[Message]) -> int:
    """A rough number of prompt tokens of messages."""
    return sum(len(message["content"]) // CHARACTERS_PER_TOKEN + 4 for message in messages)


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
    """Counts requests and their answers, and keeps the cost below the config's limit.

    That are the dollars spent, and those that requests under way may still cost.
    """

    def __init__(self, config: JudgeConfig, cache: AnswerCache) -> None:
        self._config, self._cache = config, cache
        self._spent = self._before = self._cost(*cache.tokens())
        self._reserved = 0.0
        self._changed = asyncio.Condition()
        self._counts: dict[str, int] = dict.fromkeys(("sent", "answered", "from_cache", "retried", "estimated"), 0)
        self._tokens: dict[str, int] = dict.fromkeys(("prompt_tokens", "completion_tokens", "prefix_tokens"), 0)

    @property
    def usage(self) -> Usage:
        """The usage of this run so far."""
        return Usage(**self._counts, **self._tokens, cost=self._spent - self._before)

    @property
    def has_answers(self) -> bool:
        """Whether the judge has answered anything, now or before."""
        return self._counts["answered"] + self._counts["from_cache"] > 0

    @asynccontextmanager
    async def reserve(self, request: dict[str, Any]) -> AsyncIterator[None]:
        """Reserve the largest cost of a request while it is under way. No token is shorter than a byte.

        Waits while other requests have reserved too much. Raises `CostLimitError` where the limit leaves no room.
        """
        limit = self._config.max_cost
        if limit is None:
            yield
            return
        longest = sum(len(message["content"].encode()) + TOKENS_PER_MESSAGE for message in request["messages"])
        most = self._cost(longest, request["max_tokens"])
        async with self._changed:
            while self._spent + self._reserved + most > limit:
                if self._reserved <= 0:
                    raise CostLimitError(
                        f"${self._spent:.4f} is spent, and the next request may cost ${most:.4f}, which exceeds "
                        f"--max-cost {limit:g}. Answers are kept: raise the limit, and the same command goes on."
                    )
                await self._changed.wait()
            self._reserved += most
        try:
            yield
        finally:
            async with self._changed:
                self._reserved = max(0.0, self._reserved - most) if self._reserved - most > 1e-12 else 0.0
                self._changed.notify_all()

    def count(self, what: str) -> None:
        """Count one more request of this kind: a field of `Usage`."""
        self._counts[what] += 1
        meters.add("bae_ray_judge_requests", kind=what)

    def pay(self, request: dict[str, Any], sent: dict[str, Any], answer: Answer) -> None:
        """Record an answer in the cache, and pay for it. `sent` is the request as it went to the server."""
        said = answer.prompt_tokens, answer.completion_tokens
        if 0 in said:
            self.count("estimated")
        # A server that does not say may have thought the most.
        tokens = said[0] or estimated_tokens(request["messages"]), said[1] or request["max_tokens"]
        self._cache.put(sent, answer, tokens)
        self._spent += self._cost(*tokens)

    def pay_for_lost(self, request: dict[str, Any]) -> None:
        """Record what a request may have cost that has no answer."""
        tokens = estimated_tokens(request["messages"]), request["max_tokens"]
        self.count("estimated")
        self._cache.put_lost(tokens)
        self._spent += self._cost(*tokens)

    def count_answer(self, answer: Answer) -> None:
        """Count an answer and the tokens that the server says it took."""
        self.count("answered")
        self._tokens["prompt_tokens"] += answer.prompt_tokens
        self._tokens["completion_tokens"] += answer.completion_tokens
        self._tokens["prefix_tokens"] += answer.cached_tokens

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost in dollars; prices are per million tokens."""
        return (prompt_tokens * self._config.input_price + completion_tokens * self._config.output_price) / 1e6
